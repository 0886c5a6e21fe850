//! Standard output, whose reader may go before all is written, as behind `| head`. That changes neither what
//! a command does nor its exit code, unless it shows a secret, which is then lost.

use std::io::{ErrorKind, Result, Stdout, Write};

/// An output to which writing succeeds when its reader has gone.
pub(super) struct Output<W>(W);

pub(super) fn stdout() -> Output<Stdout> {
    Output(std::io::stdout())
}

fn unless_gone<T>(written: Result<T>, gone: T) -> Result<T> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(gone),
        written => written,
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        unless_gone(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        unless_gone(self.0.flush(), ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is_one() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut gone = Output(writer);
        gone.write_all(b"one\n").and_then(|()| gone.flush()).unwrap();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(Output(full).write_all(b"one\n").unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
