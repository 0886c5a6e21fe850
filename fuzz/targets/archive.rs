#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| buildgrid_fuzz::archive::check(bytes));
