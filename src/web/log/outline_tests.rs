//! Outlines as lines make them, join them and are bounded by them.

use super::*;
use crate::web::log::batch::tests::line;
use crate::web::log::batch::{Batch, Encoding};
use crate::web::log::block::{Packed, pack, unpack};

fn of_step(seq: u64, step: Option<&str>, text: &str) -> String {
    let step = step.map_or("null".to_owned(), |step| format!("{step:?}"));
    line(seq, None, text).replace("\"[1/1] RUN x\"", &step) + "\n"
}

#[test]
fn parallel_steps_have_one_part_each_and_lines_of_none_stand_between() {
    let steps = [None, Some("a"), Some("b"), None, Some("a"), None, Some("c"), Some("a"), None];
    let raw: String = steps.iter().zip(0..).map(|(step, seq)| of_step(seq, *step, "x")).collect();
    let outline = Outline::of(raw.as_bytes());
    let parts: Vec<_> =
        outline.parts.iter().map(|part| (part.step.as_deref(), part.first_seq, part.lines)).collect();
    assert_eq!(
        parts,
        [(None, 0, 1), (Some("a"), 1, 3), (Some("b"), 2, 1), (None, 3, 2), (Some("c"), 6, 1), (None, 8, 1)]
    );
}

#[test]
fn ends_and_failures_are_told() {
    let status = |seq, text: &str| of_step(seq, Some("a"), text).replace("stdout", "status");
    let raw = [
        of_step(0, Some("a"), "failed after all"),
        status(1, "started"),
        status(2, "failed after 1.2 s: exit code: 1"),
    ];
    let outline = Outline::of(raw.concat().as_bytes());
    let [part] = outline.parts.as_slice() else { panic!("{outline:?}") };
    assert_eq!((part.end.clone(), part.failed.as_slice()), (Some(End::Failed("1.2 s".into())), &[2][..]));
    assert_eq!(Outline::from_json(Some(&outline.to_json())), Some(outline));
    assert_eq!(Outline::from_json(Some("[{")), None);
}

#[test]
fn filters_are_counted_without_the_lines() {
    let lines: String =
        (0..10).map(|seq| line(seq, [None, Some("web")][seq as usize % 2], "x") + "\n").collect();
    let part = Outline::of(lines.as_bytes()).parts.remove(0);
    let count = |filter: Filter| part.matching(&filter);
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(count(Filter::default()), Some(10));
    assert_eq!(count(Filter { service: name("web"), ..Filter::default() }), Some(10));
    assert_eq!(count(Filter { service: name("db"), ..Filter::default() }), Some(5), "those of every service");
    assert_eq!(count(Filter { pod: name("p"), ..Filter::default() }), Some(0));
    assert_eq!(count(Filter { step: name("other"), ..Filter::default() }), Some(0));
    assert_eq!(
        count(Filter { server: name("w"), stream: Some(Stream::Stdout), ..Filter::default() }),
        Some(10)
    );
    let many: String = (0..100).map(|seq| line(seq, Some(&format!("s{seq}")), "x") + "\n").collect();
    let part = Outline::of(many.as_bytes()).parts.remove(0);
    let of_web = Filter { service: Some("web".to_owned()), ..Filter::default() };
    assert_eq!((part.matching(&Filter::default()), part.matching(&of_web)), (Some(100), None));
}

#[test]
fn a_block_that_grows_has_the_outline_of_all_its_lines() {
    let lines: Vec<String> =
        (0..3000).map(|seq| of_step(seq, Some(&format!("step {}", seq % 7)), "text")).collect();
    let mut blocks: Vec<Packed> = Vec::new();
    for (part, first) in lines.chunks(500).zip((0..).step_by(500)) {
        let batch = Batch::read(part.concat().as_bytes(), Encoding::Identity).unwrap();
        let mut tail = blocks.pop_if(|packed| packed.block.head.has_room());
        if first == 1000 {
            // As one of an older version.
            tail.iter_mut().for_each(|tail| tail.outline = None);
        }
        blocks.extend(pack(&batch, first, tail).unwrap());
    }
    assert!(blocks.len() > 1);
    for Packed { block, outline } in blocks {
        let raw = unpack(&block.head, &block.data).unwrap();
        assert_eq!(outline, Some(Outline::of(&raw)));
    }
}

#[test]
fn lines_are_found_in_the_part_that_has_counted_them() {
    // Steps and lines of none by turns, more than there is room for; and steps that come back.
    let step = |seq: u64| seq.is_multiple_of(2).then(|| format!("step {}", seq / 2 % 200));
    let raw: String = (0..2000).map(|seq| of_step(seq, step(seq).as_deref(), "x")).collect();
    let outline = Outline::of(raw.as_bytes());
    let mut lines = vec![0; outline.parts.len()];
    (0..2000).for_each(|seq| lines[outline.part_of(seq, step(seq).as_deref())] += 1);
    assert_eq!(outline.parts.len(), MAX_PARTS);
    assert_eq!(lines, outline.parts.iter().map(|part| part.lines).collect::<Vec<_>>());
}

#[test]
fn names_of_any_length_make_no_large_outline() {
    let long = "x".repeat(9000);
    let step = |seq: u64| (!seq.is_multiple_of(3)).then(|| format!("step {} {long}", seq / 3));
    let raw: String = (0..300)
        .map(|seq| {
            let line = line(seq, Some(&format!("service {seq} {long}")), "x") + "\n";
            let step = step(seq).map_or("null".to_owned(), |step| format!("{step:?}"));
            line.replace("\"[1/1] RUN x\"", &step)
        })
        .collect();
    let outline = Outline::of(raw.as_bytes());
    let kept = outline.to_json().len();
    assert!(kept < 2 * MAX_NAMES, "{kept} bytes");
    assert_eq!(outline.parts.iter().map(|part| part.lines).sum::<u64>(), 300);
    assert!(outline.parts.last().unwrap().rest);
    // Each line is found where it was counted, and an older reader's outline is none the worse.
    let mut lines = vec![0; outline.parts.len()];
    (0..300).for_each(|seq| lines[outline.part_of(seq, step(seq).as_deref())] += 1);
    assert_eq!(lines, outline.parts.iter().map(|part| part.lines).collect::<Vec<_>>());
}

#[test]
fn outlines_stay_small() {
    let raw: String = (0..2000).map(|seq| of_step(seq, Some(&format!("step {seq}")), "x")).collect();
    let outline = Outline::of(raw.as_bytes());
    assert_eq!(outline.parts.len(), MAX_PARTS);
    assert_eq!(outline.parts.iter().map(|part| part.lines).sum::<u64>(), 2000);
}
