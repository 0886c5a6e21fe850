//! What `make fuzz` begins with, and what it has found: each input still holds what is promised.

use std::fs;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn each_seed(target: &str, check: fn(&[u8])) {
    let folder = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut seeds: Vec<_> = fs::read_dir(&folder).unwrap().map(|seed| seed.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{folder}");
    for seed in seeds {
        eprintln!("{}", seed.display());
        check(&fs::read(seed).unwrap());
    }
}

macro_rules! seeds {
    ($($target:ident)*) => { $(
        #[test]
        fn $target() {
            each_seed(stringify!($target), targets::$target::check);
        }
    )* };
}

seeds!(archive header manifest name range);
