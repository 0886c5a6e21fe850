//! Appended lines: decompressed within bounds, each checked, numbered without a gap, and brought into the
//! one form in which they are stored.

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;

use super::block::{Summary, Values};
use super::line::Line;
use super::outline::{End, Outline, Seen};
use crate::timeline::entry::Stream;
use crate::timeline::protocol::{MAX_APPEND, MAX_LINE};
use crate::web::db::millis;

/// The largest window that a zstd frame may ask for, as a power of two: what MAX_APPEND can need.
const ZSTD_WINDOW: u32 = 23;

/// How an append is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::web) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Why an append cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(in crate::web) enum BatchError {
    #[error(
        "the append has more than {MAX_APPEND} bytes{}; send it in parts",
        if *.compressed { " when decompressed" } else { "" }
    )]
    TooLarge { compressed: bool },
    #[error("the append cannot be decompressed: {0}")]
    Compression(io::Error),
    #[error("line {number}: {reason}")]
    Line { number: usize, reason: String },
}

/// The lines of one append, in order.
#[derive(Debug, Default)]
pub(in crate::web) struct Batch {
    /// The seq of the first line.
    pub first_seq: u64,
    /// The lines in their stored form, each with its line feed.
    bytes: Vec<u8>,
    lines: Vec<Meta>,
    steps: Names,
    servers: Names,
    services: Names,
    pods: Names,
    /// The steps' ends, each with the index of its line, in order.
    ends: Vec<(usize, End)>,
}

/// What a block's summary needs to know of a line.
#[derive(Debug, Clone, Copy)]
struct Meta {
    /// Where the line ends in the batch's bytes.
    end: usize,
    at: i64,
    stream: Stream,
    step: usize,
    server: usize,
    service: usize,
    pod: usize,
}

/// Values that repeat, by number.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Option<String>, usize>,
    values: Vec<Option<String>>,
    /// The one seen last: most lines repeat it.
    last: usize,
}

impl Names {
    fn number(&mut self, name: Option<&str>) -> usize {
        if self.values.get(self.last).is_some_and(|last| last.as_deref() == name) {
            return self.last;
        }
        let name = name.map(str::to_owned);
        let next = self.values.len();
        self.last = *self.numbers.entry(name.clone()).or_insert(next);
        if self.last == next {
            self.values.push(name);
        }
        self.last
    }

    fn name(&self, number: usize) -> Option<&str> {
        self.values[number].as_deref()
    }

    fn of(&self, numbers: impl Iterator<Item = usize>) -> Values {
        let mut seen = vec![false; self.values.len()];
        numbers.for_each(|number| seen[number] = true);
        let values = self.values.iter().zip(seen).filter(|(_, seen)| *seen).map(|(value, _)| value.clone());
        Values::of(values)
    }
}

impl Batch {
    /// Reads an append. Blocking: it decompresses and parses.
    pub(in crate::web) fn read(body: &[u8], encoding: Encoding) -> Result<Self, BatchError> {
        let text = decompress(body, encoding)?;
        let mut batch = Self { bytes: Vec::with_capacity(text.len()), ..Self::default() };
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        for (index, line) in lines.enumerate() {
            let number = index + 1;
            batch.push(line).map_err(|reason| BatchError::Line { number, reason })?;
        }
        Ok(batch)
    }

    fn push(&mut self, line: &[u8]) -> Result<(), String> {
        if line.len() > MAX_LINE {
            return Err(format!("is {} bytes long; at most {MAX_LINE} are taken", line.len()));
        }
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if let Some(fault) = line.fault() {
            return Err(fault);
        }
        match self.lines.is_empty() {
            true => self.first_seq = line.seq,
            false if line.seq != self.end_seq() => {
                return Err(format!("seq {} follows {}; each is one more", line.seq, self.end_seq() - 1));
            }
            false => {}
        }
        if line.seq > i64::MAX as u64 - MAX_APPEND as u64 {
            return Err(format!("seq {} is no count of lines", line.seq));
        }
        serde_json::to_writer(&mut self.bytes, &line).map_err(|error| error.to_string())?;
        self.bytes.push(b'\n');
        let end = End::read(line.stream, line.step.as_deref(), &line.text);
        self.ends.extend(end.map(|end| (self.lines.len(), end)));
        self.lines.push(Meta {
            end: self.bytes.len(),
            at: millis(line.at),
            stream: line.stream,
            step: self.steps.number(line.step.as_deref()),
            server: self.servers.number(Some(&line.server)),
            service: self.services.number(line.service.as_deref()),
            pod: self.pods.number(line.pod.as_deref()),
        });
        Ok(())
    }

    /// The seq after the last line.
    pub(in crate::web) fn end_seq(&self) -> u64 {
        self.first_seq + self.lines.len() as u64
    }

    pub(in crate::web) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(in crate::web) fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many lines from `from` on fit into `room` bytes.
    pub(super) fn fitting(&self, from: usize, room: usize) -> usize {
        let start = self.start(from);
        self.lines[from..].partition_point(|line| line.end - start <= room)
    }

    pub(super) fn bytes(&self, lines: Range<usize>) -> &[u8] {
        &self.bytes[self.start(lines.start)..self.start(lines.end)]
    }

    pub(super) fn summary(&self, lines: Range<usize>) -> Summary {
        let lines = &self.lines[lines];
        Summary {
            first_at: lines.iter().map(|line| line.at).min().unwrap_or_default(),
            last_at: lines.iter().map(|line| line.at).max().unwrap_or_default(),
            steps: self.steps.of(lines.iter().map(|line| line.step)),
            servers: self.servers.of(lines.iter().map(|line| line.server)),
            services: self.services.of(lines.iter().map(|line| line.service)),
            pods: self.pods.of(lines.iter().map(|line| line.pod)),
        }
    }

    /// Counts lines in the outline of their block.
    pub(super) fn outline(&self, lines: Range<usize>, outline: &mut Outline) {
        let mut ends = &self.ends[self.ends.partition_point(|(index, _)| *index < lines.start)..];
        for index in lines {
            let line = &self.lines[index];
            let end = ends.first().filter(|(at, _)| *at == index).map(|(_, end)| end);
            ends = &ends[usize::from(end.is_some())..];
            outline.add(&Seen {
                seq: self.first_seq + index as u64,
                at: line.at,
                step: self.steps.name(line.step),
                server: self.servers.name(line.server).unwrap_or_default(),
                service: self.services.name(line.service),
                pod: self.pods.name(line.pod),
                stream: line.stream,
                end,
            });
        }
    }

    fn start(&self, line: usize) -> usize {
        line.checked_sub(1).map_or(0, |before| self.lines[before].end)
    }
}

/// At most [`MAX_APPEND`] bytes, whatever is packed into `body`.
fn decompress(body: &[u8], encoding: Encoding) -> Result<Vec<u8>, BatchError> {
    let read = |reader: &mut dyn Read| {
        let mut text = Vec::new();
        reader.take(MAX_APPEND as u64 + 1).read_to_end(&mut text).map_err(BatchError::Compression)?;
        match text.len() > MAX_APPEND {
            true => Err(BatchError::TooLarge { compressed: true }),
            false => Ok(text),
        }
    };
    match encoding {
        Encoding::Identity if body.len() > MAX_APPEND => Err(BatchError::TooLarge { compressed: false }),
        Encoding::Identity => Ok(body.to_vec()),
        Encoding::Gzip => read(&mut flate2::read::MultiGzDecoder::new(body)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(body).map_err(BatchError::Compression)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(BatchError::Compression)?;
            read(&mut decoder)
        }
    }
}

#[cfg(test)]
pub(in crate::web) mod tests {
    use super::*;

    pub(in crate::web) fn line(seq: u64, service: Option<&str>, text: &str) -> String {
        let service = service.map_or("null".to_owned(), |name| format!("{name:?}"));
        format!(
            r#"{{"seq":{seq},"at":"2026-11-23T10:15:02.{:03}Z","stream":"stdout","step":"[1/1] RUN x","server":"w","service":{service},"pod":null,"text":"{text}"}}"#,
            seq % 1000
        )
    }

    fn refused(text: &str) -> String {
        Batch::read(text.as_bytes(), Encoding::Identity).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_brought_into_one_form() {
        let strange = r#" {"text": "\u0041", "pod":null, "service":null,"server":"w","step":null ,"stream":"stderr", "at":"2026-11-23T10:15:02.123Z","seq":5}"#;
        let batch =
            Batch::read(format!("{strange}\n\n{}\n", line(6, None, "b")).as_bytes(), Encoding::Identity);
        let batch = batch.unwrap();
        assert_eq!((batch.first_seq, batch.end_seq(), batch.len()), (5, 7, 2));
        let first = r#"{"seq":5,"at":"2026-11-23T10:15:02.123Z","stream":"stderr","step":null,"server":"w","service":null,"pod":null,"text":"A"}"#;
        assert_eq!(batch.bytes(0..1), format!("{first}\n").as_bytes());
        assert_eq!(batch.bytes(1..2), format!("{}\n", line(6, None, "b")).as_bytes());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, words) in [
            (format!("{}\n{}", line(1, None, "a"), line(3, None, "b")), "line 2: seq 3 follows 1"),
            (format!("{}\n{}", line(1, None, "a"), line(1, None, "b")), "line 2: seq 1 follows 1"),
            (format!("{}\n{{", line(1, None, "a")), "line 2: EOF"),
            (line(1, None, "a").replace("\"pod\"", "\"pot\""), "unknown field `pot`"),
            (line(1, None, "a").replace("stdout", "out"), "unknown variant"),
            (line(1, None, "a").replace("\"seq\":1", "\"seq\":-1"), "invalid value"),
            (line(u64::MAX, None, "a"), "no count of lines"),
            (line(1, None, &"x".repeat(65 << 10)), "text is 66560 bytes long; at most 65536"),
            (line(1, None, "a").replace("\"w\"", "\"\""), "server is empty"),
            (line(1, None, &"x".repeat(600 << 10)), "at most 524288"),
            ("\u{0}".to_owned(), "line 1"),
        ] {
            let said = refused(&text);
            assert!(said.contains(words), "{said:?} does not say {words:?}");
        }
        let latin = [line(1, None, "a").as_bytes(), b"\n\xff\n"].concat();
        assert!(Batch::read(&latin, Encoding::Identity).is_err());
    }

    #[test]
    fn compressed_appends_are_bounded() {
        let lines: String = (0..100).map(|seq| line(seq, None, "text") + "\n").collect();
        let gzip = |bytes: &[u8]| {
            let mut reader = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
            let mut packed = Vec::new();
            reader.read_to_end(&mut packed).unwrap();
            packed
        };
        let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
        for (packed, encoding) in
            [(gzip(lines.as_bytes()), Encoding::Gzip), (zstd(lines.as_bytes()), Encoding::Zstd)]
        {
            assert_eq!(Batch::read(&packed, encoding).unwrap().bytes(0..100), lines.as_bytes());
            assert!(matches!(
                Batch::read(&packed[..packed.len() - 9], encoding),
                Err(BatchError::Compression(_) | BatchError::Line { .. })
            ));
            assert!(matches!(Batch::read(b"nonsense", encoding), Err(BatchError::Compression(_))));
        }
        let bomb = vec![b'\n'; 100 << 20];
        for (packed, encoding) in [(gzip(&bomb), Encoding::Gzip), (zstd(&bomb), Encoding::Zstd)] {
            assert!(packed.len() < 1 << 20);
            let refused = Batch::read(&packed, encoding).unwrap_err();
            assert!(matches!(refused, BatchError::TooLarge { compressed: true }), "{refused}");
        }
    }
}
