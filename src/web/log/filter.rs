//! Which lines a reader wants: by server, service, pod, step and stream, and by words of the text.
//!
//! Stored lines have one form, so that a field's value is a run of bytes that stands nowhere else in the
//! line: quotes within a text are escaped.

use std::ops::Range;

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter, memrchr};
use regex::bytes::{Regex, RegexBuilder};

use super::block::Summary;
use super::line::Line;
use crate::timeline::entry::Stream;

/// The longest condition, in bytes.
pub(in crate::web) const MAX_CONDITION: usize = 1024;

/// What a reader asks for. Every condition that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::web) struct Filter {
    pub server: Option<String>,
    /// Lines of this service, and those of none, which belong to every service.
    pub service: Option<String>,
    pub pod: Option<String>,
    pub step: Option<String>,
    pub stream: Option<Stream>,
    /// Words that the text has, whatever their case.
    pub q: Option<String>,
}

/// A stream by its name.
///
/// # Errors
/// A sentence on one that is none.
pub(in crate::web) fn stream(name: &str) -> Result<Stream, String> {
    let unknown = || format!("stream: {name:.80?} is not stdout, stderr or status");
    serde_json::from_value(name.into()).map_err(|_| unknown())
}

impl Filter {
    /// Whether a block can have a matching line.
    pub(super) fn may_match(&self, summary: &Summary) -> bool {
        let holds = |value: &Option<String>, values: &super::block::Values, or_none: bool| {
            value.as_ref().is_none_or(|value| values.may_hold(value, or_none))
        };
        holds(&self.server, &summary.servers, false)
            && holds(&self.service, &summary.services, true)
            && holds(&self.pod, &summary.pods, false)
            && holds(&self.step, &summary.steps, false)
    }

    /// Makes it ready to be used on many lines.
    ///
    /// # Errors
    /// A sentence on a condition that is too long.
    pub(in crate::web) fn compile(&self) -> Result<Matcher, String> {
        let conditions = [
            ("server", &self.server),
            ("service", &self.service),
            ("pod", &self.pod),
            ("step", &self.step),
            ("q", &self.q),
        ];
        for (name, value) in conditions {
            let length = value.as_ref().map_or(0, String::len);
            if length > MAX_CONDITION {
                return Err(format!("{name} is {length} bytes long; at most {MAX_CONDITION} are taken"));
            }
        }
        let field = |key: &str, value: &str| Finder::new(&format!("\"{key}\":{value},")).into_owned();
        let mut fields: Vec<Vec<Finder<'static>>> = Vec::new();
        // Those first that single out the fewest lines: the first is the one that is looked for.
        fields.extend(self.pod.as_ref().map(|pod| vec![field("pod", &json(pod))]));
        if let Some(service) = &self.service {
            fields.push(vec![field("service", &json(service)), field("service", "null")]);
        }
        for (key, value) in [("step", &self.step), ("server", &self.server)] {
            fields.extend(value.as_ref().map(|value| vec![field(key, &json(value))]));
        }
        if let Some(stream) = self.stream {
            let stream = serde_json::to_string(&stream).map_err(|error| error.to_string())?;
            fields.push(vec![field("stream", &stream)]);
        }
        let words = match self.q.as_deref() {
            None | Some("") => None,
            Some(words) => {
                let escaped = json(words);
                let within = &escaped[1..escaped.len() - 1];
                Some(Words { stored: pattern(within)?, text: pattern(words)? })
            }
        };
        Ok(Matcher { filter: self.clone(), fields, words })
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn pattern(words: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(&regex::escape(words)).case_insensitive(true).build();
    regex.map_err(|error| format!("q cannot be searched for: {error}"))
}

/// The words, as they stand in a stored line, where a line feed is `\n`, and in the text itself.
struct Words {
    stored: Regex,
    text: Regex,
}

/// A [`Filter`] that is ready.
pub(in crate::web) struct Matcher {
    filter: Filter,
    /// Each a condition; one of its forms must stand in the line.
    fields: Vec<Vec<Finder<'static>>>,
    words: Option<Words>,
}

impl Matcher {
    /// Takes every line.
    pub(in crate::web) fn everything() -> Self {
        Self { filter: Filter::default(), fields: Vec::new(), words: None }
    }

    /// What it was made of.
    pub(in crate::web) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether a block can have a matching line.
    pub(super) fn may_match(&self, summary: &Summary) -> bool {
        self.filter.may_match(summary)
    }

    /// The lines of a block that match, each with the number of lines before it. The block is searched as
    /// a whole for one of the conditions; only where it holds, the line is looked at.
    pub(super) fn find(&self, raw: &[u8]) -> Vec<(usize, Range<usize>)> {
        let (mut found, mut passed, mut number) = (Vec::new(), 0, 0);
        for place in self.places(raw) {
            if place < passed {
                continue;
            }
            let start = memrchr(b'\n', &raw[passed..place]).map_or(passed, |before| passed + before + 1);
            let end = memchr(b'\n', &raw[place..]).map_or(raw.len(), |after| place + after + 1);
            number += memchr_iter(b'\n', &raw[passed..start]).count();
            if self.matches(&raw[start..end]) {
                found.push((number, start..end));
            }
            (passed, number) = (end, number + 1);
        }
        found
    }

    /// Places in a block, in order, of which each line that matches has one at least.
    fn places(&self, raw: &[u8]) -> Vec<usize> {
        match (&self.words, self.fields.first()) {
            (Some(words), _) => {
                let (mut places, mut from) = (Vec::new(), 0);
                while let Some(place) = words.stored.find_at(raw, from) {
                    places.push(place.start());
                    // Once is enough for a line.
                    from = memchr(b'\n', &raw[place.end()..]).map_or(raw.len(), |end| place.end() + end);
                }
                places
            }
            (None, Some(forms)) => {
                let mut places: Vec<usize> = forms.iter().flat_map(|form| form.find_iter(raw)).collect();
                places.sort_unstable();
                places
            }
            // Every line: where it ends.
            (None, None) => memchr_iter(b'\n', raw).collect(),
        }
    }

    fn matches(&self, line: &[u8]) -> bool {
        self.fields.iter().all(|forms| forms.iter().any(|form| form.find(line).is_some()))
            && self.words.as_ref().is_none_or(|words| {
                // In its stored form a line has words that its text has not: those of other fields, and
                // letters that belong to an escape.
                words.stored.is_match(line)
                    && serde_json::from_slice::<Line<'_>>(line)
                        .is_ok_and(|line| words.text.is_match(line.text.as_bytes()))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::tests::line;
    use super::*;

    fn matches(filter: Filter, line: &str) -> bool {
        filter.compile().unwrap().matches(line.as_bytes())
    }

    fn q(words: &str) -> Filter {
        Filter { q: Some(words.to_owned()), ..Filter::default() }
    }

    #[test]
    fn a_field_is_not_taken_for_another() {
        let service = |name: &str| Filter { service: Some(name.to_owned()), ..Filter::default() };
        assert!(matches(service("web"), &line(1, Some("web"), "x")));
        assert!(matches(service("web"), &line(1, None, "x")), "no service is every service");
        assert!(!matches(service("web"), &line(1, Some("worker"), "x")));
        let disguised = line(1, Some("worker"), r#"\"service\":\"web\","#);
        assert!(!matches(service("web"), &disguised));
        let pod = Filter { pod: Some("web".to_owned()), ..Filter::default() };
        assert!(!matches(pod, &line(1, Some("web"), "x")));
        let step = Filter { step: Some("[1/1] RUN x".to_owned()), ..Filter::default() };
        assert!(matches(step, &line(1, None, "x")));
        let stream = Filter { stream: Some(Stream::Stderr), ..Filter::default() };
        assert!(!matches(stream, &line(1, None, "x")));
    }

    #[test]
    fn a_block_is_searched_as_a_whole() {
        let block: String = [
            ("web", "a"),
            ("db", "b b"),
            ("web", "B b"),
            ("db", "\\\"service\\\":\\\"web\\\","),
            ("web", "c"),
        ]
        .into_iter()
        .zip(0..)
        .map(|((service, text), seq)| line(seq, Some(service), text) + "\n")
        .collect();
        let found = |filter: Filter| -> Vec<usize> {
            let lines = filter.compile().unwrap().find(block.as_bytes());
            for (number, line) in &lines {
                assert_eq!(&block[line.clone()], block.split_inclusive('\n').nth(*number).unwrap());
            }
            lines.into_iter().map(|(number, _)| number).collect()
        };
        let web = Filter { service: Some("web".to_owned()), ..Filter::default() };
        assert_eq!(found(Filter::default()), [0, 1, 2, 3, 4]);
        assert_eq!(found(web.clone()), [0, 2, 4]);
        assert_eq!(found(q("b")), [1, 2, 3]);
        assert_eq!(found(Filter { q: Some("b".to_owned()), ..web.clone() }), [2]);
        assert_eq!(found(Filter { pod: Some("p".to_owned()), ..web }), [0; 0]);
    }

    #[test]
    fn words_are_found_in_the_text_alone() {
        assert!(matches(q("ERROR"), &line(1, None, "an Error here")));
        assert!(matches(q("größe"), &line(1, None, "GRÖSSE GRÖßE")));
        assert!(!matches(q("stdout"), &line(1, None, "x")), "that is the stream");
        assert!(!matches(q("n"), &line(1, None, r"\\ \t")), "escapes are no letters");
        assert!(!matches(q("u001b"), &line(1, None, r"\u001b[1m")));
        assert!(matches(q("a\"b\\c"), &line(1, None, r#"a\"b\\c"#)));
        assert!(matches(q("a.*b"), &line(1, None, "a.*b")) && !matches(q("a.*b"), &line(1, None, "axxb")));
        assert!(matches(q(""), &line(1, None, "x")));
        assert!(q(&"x".repeat(2000)).compile().is_err());
    }
}
