//! A clock of a program's own, which a test can set: libfaketime's. Only the time of day is another; timers go on.

use std::path::PathBuf;
use std::process::Command;

pub struct Clock {
    folder: tempfile::TempDir,
}

impl Clock {
    /// One that is right.
    pub fn right() -> Self {
        let clock = Self { folder: tempfile::tempdir().unwrap() };
        clock.set("+0");
        clock
    }

    /// Gives it to a program that is about to be started.
    pub fn rules(&self, command: &mut Command) {
        let folders = std::fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path());
        let mut libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
        let library = libraries.find(|library| library.exists()).expect("this test needs libfaketime");
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", self.file());
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
    }

    /// Sets it to so much from the machine's: `+1h`, `-1h`, `+0`.
    pub fn set(&self, offset: &str) {
        // Whole or not at all: the program reads it all the time.
        let new = self.folder.path().join("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}
