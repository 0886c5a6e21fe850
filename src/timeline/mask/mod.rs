//! No secret leaves the worker in text: what stages write is cleaned and masked here before anything else is
//! done with it, the splitting into entries included.
//!
//! All forms of all secrets of one attempt are one automaton; [`forms`] says which forms there are. It reads each
//! line as [`seen`] says: without what is no part of its words, so that neither colours nor characters that nobody
//! sees hide a secret, and a line with percent-encoding a second time, decoded. A secret of several lines is
//! masked line by line. Logins in URLs are masked whether they are known or not; [`url`] finds them.
//!
//! Masking is against accidents. Whoever writes the Dockerfile can always print a secret in a form of their own.

mod forms;
mod seen;
mod url;

use std::fmt::{self, Display};
use std::ops::{Deref, Range};
use std::sync::{Arc, Weak};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use anyhow::Context;

use super::escape;
use forms::forms;
use seen::{Decoded, Seen};

/// What stands in a secret's place.
const MASK: &str = "***";
/// The shortest secret that is masked, and the shortest form of one, in bytes: what is shorter stands in any text.
pub const MIN_SECRET: usize = 4;
/// The shortest line of a secret of several lines that is masked, in bytes: shorter ones, as `}` or `type:`, are
/// no secret by themselves.
pub const MIN_LINE: usize = 8;

/// How many bytes of clean text a byte of a form may take: beside each there may be a hidden character, written out.
const SPREAD: usize = "x\\u{200b}".len();

/// The most of all forms together, in bytes, for which the fastest automaton is made: it takes some 340 times as
/// much memory. The other one is half as fast, and takes 12 times as much.
const FASTEST: usize = 32 << 10;

/// Text that anybody may see: without known secrets, and harmless for terminals and pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    /// Without colours, for where it stands alone.
    pub fn plain(&self) -> String {
        escape::without_colours(&self.0).into_owned()
    }

    /// In pieces of `most` bytes at most.
    pub fn split(self, most: usize) -> impl Iterator<Item = Self> {
        let mut rest = Some(self.0);
        std::iter::from_fn(move || {
            let mut piece = rest.take()?;
            if piece.len() > most {
                rest = Some(piece.split_off(escape::edge(&piece, most)));
            }
            Some(Self(piece))
        })
    }
}

impl From<Shown> for String {
    fn from(Shown(text): Shown) -> Self {
        text
    }
}

impl Deref for Shown {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Shown {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secrets of one attempt. Clones share the automaton.
#[derive(Debug, Clone, Default)]
pub struct Mask(Option<Arc<Automaton>>);

/// A mask for as long as somebody uses it.
#[derive(Debug)]
pub struct WeakMask(Weak<Automaton>);

impl WeakMask {
    pub fn upgrade(&self) -> Option<Mask> {
        self.0.upgrade().map(|automaton| Mask(Some(automaton)))
    }
}

#[derive(Debug)]
struct Automaton {
    forms: AhoCorasick,
    /// The length of the longest form, in bytes.
    longest: usize,
}

/// A secret, or lines of one, that a mask leaves as they are, since they are too short to be told from other text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmasked {
    pub name: String,
    /// How many lines are too short; `None` where the whole secret is.
    pub lines: Option<usize>,
}

/// What is put into a piece's place, and what must not be cut apart before that.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    whole: Range<usize>,
    hidden: Range<usize>,
}

impl Mask {
    /// A mask that knows no secrets; logins in URLs are masked all the same.
    pub fn none() -> Self {
        Self::default()
    }

    /// Masks these secrets, by name. Also tells what it does not mask.
    ///
    /// # Errors
    /// They are too large to be looked for.
    pub fn new<'a>(
        secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> anyhow::Result<(Self, Vec<Unmasked>)> {
        let (mut all, mut unmasked) = (std::collections::BTreeSet::new(), Vec::new());
        for (name, secret) in secrets {
            let found = forms(secret);
            if found.is_too_short || found.short_lines > 0 {
                let lines = (!found.is_too_short).then_some(found.short_lines);
                unmasked.push(Unmasked { name: name.to_owned(), lines });
            }
            all.extend(found.forms);
        }
        let Some(longest) = all.iter().map(String::len).max() else { return Ok((Self::none(), unmasked)) };
        let bytes: usize = all.iter().map(String::len).sum();
        let kind = if bytes <= FASTEST { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let forms = AhoCorasick::builder().kind(Some(kind)).build(&all);
        let forms = forms.context("look for the secrets in the log")?;
        Ok((Self(Some(Arc::new(Automaton { forms, longest }))), unmasked))
    }

    /// The same mask, for others who need it while it is used. One without secrets is not worth sharing.
    pub fn downgrade(&self) -> Option<WeakMask> {
        self.0.as_ref().map(|automaton| WeakMask(Arc::downgrade(automaton)))
    }

    /// A whole text as it may be shown. Line ends in it are written out.
    pub fn shown(&self, text: &str) -> Shown {
        self.masked(escape::clean(text).into_owned())
    }

    /// Clean text as it may be shown.
    pub fn masked(&self, clean: String) -> Shown {
        self.masked_after("", clean)
    }

    /// As [`masked`](Self::masked), of text that stood behind `before`: what a secret has there is masked, too.
    pub fn masked_after(&self, before: &str, mut clean: String) -> Shown {
        let spans = self.spans_after(before, &clean);
        if !spans.is_empty() {
            clean = hide(&clean, &spans);
        }
        escape::end_colours(&mut clean);
        Shown(clean)
    }

    /// Of a clean text behind `before` that is to be cut because it is too long: where it can be cut, at `most` or
    /// before, so that no secret is cut apart. The text must be longer than that by [`reach`](Self::reach).
    pub fn edge(&self, before: &str, clean: &str, most: usize) -> usize {
        let spans = self.spans_after(before, clean);
        let around = |edge| {
            let cut = |span: &&Span| span.whole.start < edge && edge < span.whole.end;
            spans.iter().find(cut).map(|span| &span.whole)
        };
        let mut edge = escape::edge(clean, most);
        while let Some(whole) = around(edge) {
            // What is longer than a whole piece becomes a short one.
            edge = if whole.start == 0 { whole.end } else { whole.start };
        }
        edge
    }

    /// How far behind a place one must look to know whether a secret stands there.
    pub fn reach(&self) -> usize {
        SPREAD * self.0.as_ref().map_or(0, |automaton| automaton.longest).max(url::LONGEST)
    }

    /// As [`spans`](Self::spans), of what stands behind `before`.
    fn spans_after(&self, before: &str, clean: &str) -> Vec<Span> {
        if before.is_empty() {
            return self.spans(clean);
        }
        let begin = before.len();
        let behind = |range: Range<usize>| range.start.saturating_sub(begin)..range.end.saturating_sub(begin);
        let spans = self.spans(&[before, clean].concat()).into_iter();
        let spans = spans.map(|span| Span { whole: behind(span.whole), hidden: behind(span.hidden) });
        spans.filter(|span| !span.hidden.is_empty()).collect()
    }

    /// Where secrets stand in a clean text, in order and apart from each other.
    fn spans(&self, clean: &str) -> Vec<Span> {
        let seen = Seen::of(clean);
        let mut spans: Vec<Span> =
            url::logins(seen.text()).map(|login| Span { whole: login.url, hidden: login.secret }).collect();
        if let Some(automaton) = &self.0 {
            // All that there are: two secrets may overlap, and one may begin like another.
            let same = |range: Range<usize>| Span { whole: range.clone(), hidden: range };
            let found = automaton.forms.find_overlapping_iter(seen.text());
            spans.extend(found.map(|found| same(found.range())));
            if let Some(decoded) = Decoded::of(seen.text()) {
                let found = automaton.forms.find_overlapping_iter(decoded.bytes());
                spans.extend(found.map(|found| same(decoded.place(&found.range()))));
            }
        }
        if spans.is_empty() {
            return spans;
        }
        spans.sort_by_key(|span| (span.hidden.start, span.hidden.end));
        let mut apart: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match apart.last_mut() {
                Some(last) if span.hidden.start <= last.hidden.end => {
                    last.hidden.end = last.hidden.end.max(span.hidden.end);
                    last.whole.start = last.whole.start.min(span.whole.start);
                    last.whole.end = last.whole.end.max(span.whole.end);
                }
                _ => apart.push(span),
            }
        }
        for span in &mut apart {
            (span.whole, span.hidden) = (seen.place(&span.whole), seen.place(&span.hidden));
        }
        apart
    }
}

/// `clean` with a mask in the place of each span; colours in it stay, for what comes after them.
fn hide(clean: &str, spans: &[Span]) -> String {
    let mut masked = String::with_capacity(clean.len());
    let mut done = 0;
    for Span { hidden, .. } in spans {
        masked.push_str(&clean[done..hidden.start]);
        masked.push_str(MASK);
        let mut rest = &clean[hidden.clone()];
        while let Some(at) = memchr::memchr(b'\x1b', rest.as_bytes()) {
            let colour = escape::colour(&rest[at..]);
            masked.push_str(&rest[at..at + colour]);
            rest = &rest[at + colour..];
        }
        done = hidden.end;
    }
    masked.push_str(&clean[done..]);
    masked
}

#[cfg(test)]
#[path = "../mask_tests.rs"]
mod tests;
