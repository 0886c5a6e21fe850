//! Tests of masking: no form of a secret is visible, however it is written and cut.

use super::*;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use proptest::prelude::*;
use proptest::sample::select;

fn mask(secrets: &[&str]) -> Mask {
    Mask::new(secrets.iter().map(|secret| ("s", secret.as_bytes()))).unwrap().0
}

#[test]
fn secrets_become_stars() {
    let mask = mask(&["hunter2", "hunter2-and-more", "correct\nhorse-battery\n"]);
    for (text, shown) in [
        ("nothing", "nothing"),
        ("it is hunter2!", "it is ***!"),
        ("hunter2-and-more", "***"),
        ("hunter2hunter2", "***"),
        ("hunter2 hunter2", "*** ***"),
        ("hunter2-and-less", "***-and-less"),
        ("my horse-battery is correct", "my *** is correct"),
        ("Authorization: Basic bWU6aHVudGVyMg==", "Authorization: Basic bWU6***"),
        (
            "https://me:hunter2@git/x and https://me:other@git/x",
            "https://me:***@git/x and https://me:***@git/x",
        ),
    ] {
        assert_eq!(&*mask.shown(text), shown, "{text}");
    }
}

#[test]
fn colours_and_removed_sequences_do_not_hide_a_secret() {
    let mask = mask(&["hunter2"]);
    // As `grep --color` marks a part of it.
    assert_eq!(&*mask.shown("a hun\x1b[01;31m\x1b[Kter\x1b[m\x1b[K2 b"), "a ***\x1b[01;31m\x1b[m b");
    assert_eq!(&*mask.shown("\x1b[31mhunter2\x1b[0m"), "\x1b[31m***\x1b[0m");
    assert_eq!(&*mask.shown("hun\x1b]0;\x07ter2"), "***");
    assert_eq!(&*mask.shown("https://me:o\x1b[1mther@git"), "https://me:***\x1b[1m@git\x1b[0m");
}

#[test]
fn what_nobody_sees_does_not_hide_a_secret() {
    let mask = mask(&["hunter2", "two words"]);
    for (text, shown) in [
        ("\0h\0u\0n\0t\0e\0r\x002\0", "\\u{0}***\\u{0}"),
        ("h\x08u\x07nt\u{7f}er2 is it", "*** is it"),
        ("hun\u{200b}t\u{200d}er\u{feff}2\u{2060} x\u{ad}y", "***\\u{2060} x\\u{ad}y"),
        ("hun\r\nter2", "***"),
        // As Rust's `{:?}` writes it.
        ("\"hun\\u{200b}ter2\"", "\"***\""),
        ("aHV\x07udG\u{200b}VyMg==", "***"),
        ("https://me:o\u{200b}ther@git", "https://me:***@git"),
        ("hun\u{41}er2 \\u{41} \u{2764}\u{fe0f}", "hunAer2 \\u{41} \u{2764}\u{fe0f}"),
    ] {
        assert_eq!(&*mask.shown(text), shown, "{text:?}");
    }
}

#[test]
fn a_secret_is_found_whichever_of_its_characters_are_percent_encoded() {
    let mask = mask(&["two-words ~2.0/\u{e9}", "pass_word"]);
    for text in [
        "two-words%20~2.0%2F%C3%A9",
        "two%2dwords+%7e2%2E0%2f%c3%A9",
        "%74wo%2Dwords%20%7E2.0/\u{e9}",
        "%70%61%73%73%5F%77%6f%72%64",
        "%63GFzc193b3Jk",
        "706173735F776F7264",
        "706173735f776f7264",
    ] {
        assert_eq!(&*mask.shown(&format!("a={text}&b=100%")), "a=***&b=100%", "{text}");
    }
    assert_eq!(&*mask.shown("%25pass%5Fword%25 %7"), "%25***%25 %7");
}

#[test]
fn what_stood_before_a_text_is_part_of_its_secrets() {
    let mask = mask(&["hunter2"]);
    let after = |before: &str, text: &str| mask.masked_after(before, text.to_owned()).to_string();
    assert_eq!(after("it is hun", "ter2!"), "***!");
    assert_eq!(after("it is hunter2", "2!"), "2!");
    assert_eq!(after("hun", "dred hunter2"), "dred ***");
    assert_eq!(after("see https://me:o", "ther@git"), "***@git");
}

#[test]
fn many_secrets_are_masked_like_few() {
    let secrets: Vec<String> = (0..400).map(|n| format!("secret-number-{n:020}-of-many")).collect();
    let mask = mask(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
    for secret in &secrets {
        assert_eq!(
            &*mask.shown(&format!("a {secret} {} b", BASE64.encode(secret.as_bytes()))),
            "a *** *** b"
        );
    }
}

#[test]
fn overlapping_secrets_are_masked_together() {
    let mask = mask(&["abcdef", "defghi", "ghij"]);
    assert_eq!(&*mask.shown("-abcdefghij-"), "-***-");
}

#[test]
fn what_is_not_masked_is_told() {
    let (mask, unmasked) =
        Mask::new([("pin", &b"123"[..]), ("key", b"{\n0123456789\n}\n"), ("good", b"0123456")]).unwrap();
    let told = |name: &str, lines| Unmasked { name: name.to_owned(), lines };
    assert_eq!(unmasked, [told("pin", None), told("key", Some(2))]);
    assert_eq!(&*mask.shown("123 0123456 0123456789"), "123 *** ***");
}

#[test]
fn a_cut_never_goes_through_a_secret_or_a_login() {
    let mask = mask(&["0123456789"]);
    let text = format!("{}0123456789 https://me:pass@host {}", "x".repeat(20), "y".repeat(40));
    for most in 1..60 {
        let edge = mask.edge("", &text, most);
        let (front, back) = text.split_at(edge);
        assert!(edge > 0 && edge <= most.max(20), "{edge} of {most}");
        let both = format!("{}{}", mask.shown(front), mask.shown(back));
        assert!(!both.contains("pass") && !both.contains("234"), "{both}");
    }
}

#[test]
fn what_is_shown_is_split_without_loss() {
    let text = format!("\x1b[31m{}\x1b[0m", "é".repeat(100));
    let shown = Mask::none().shown(&text);
    let pieces: Vec<String> = shown.split(64).map(String::from).collect();
    assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= 64));
    assert_eq!(pieces.concat(), text);
    assert_eq!(Mask::none().shown("").split(64).map(String::from).collect::<Vec<_>>(), [""]);
}

/// A form in which a program may print a secret.
fn printed(secret: &str, form: u8) -> String {
    match form {
        0 => secret.to_owned(),
        1 => BASE64.encode(secret.as_bytes()),
        2 => BASE64.encode(format!("x{secret}yz").as_bytes()),
        3 => BASE64URL_NOPAD.encode(format!("xx{secret}").as_bytes()),
        4 => percent_encoding::percent_encode(secret.as_bytes(), percent_encoding::NON_ALPHANUMERIC)
            .to_string(),
        5 => serde_json::to_string(secret).unwrap(),
        6 => data_encoding::HEXLOWER.encode(secret.as_bytes()),
        7 => data_encoding::HEXUPPER.encode(secret.as_bytes()),
        8 => secret
            .bytes()
            .enumerate()
            .map(|(n, byte)| match n % 3 == 0 || !byte.is_ascii_alphanumeric() {
                true => format!("%{byte:02x}"),
                false => char::from(byte).to_string(),
            })
            .collect(),
        _ => format!("https://user:{secret}@host/"),
    }
}

/// What a reader makes of a line: its words, without hidden characters, however they are shown.
fn read(shown: &str) -> String {
    seen::Seen::of(shown).text().to_owned()
}

proptest! {
    #[test]
    fn no_form_of_a_secret_is_ever_visible(
        mut secrets in proptest::collection::vec("[a-zA-Z0-9/+=\"\\\\ éß\u{1}%]{6,40}(\n[A-Z0-9é\u{202e}]{10,30}){0,3}", 1..6),
        prefix in 5_usize..12,
        words in proptest::collection::vec(("[a-z ]{0,12}", 0_usize..9, 0_u8..10), 1..8),
        unseen in proptest::collection::vec("[\u{0}\u{7}\u{8}\u{ad}\u{200b}-\u{200f}\u{2060}\u{fe0f}\u{feff}]{0,3}|\\x1b\\[3[0-7]m", 1..6),
    ) {
        // One that another one begins with, and one that overlaps with it.
        let first: String = secrets[0].chars().take(prefix).collect();
        let overlap = format!("{}XYZXYZ", &secrets[0].lines().next().unwrap_or_default());
        secrets.extend([first, overlap]);
        secrets.retain(|secret| secret.trim().len() >= MIN_LINE);
        prop_assume!(!secrets.is_empty());
        let mask = mask(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
        let mut text = String::new();
        for (word, secret, form) in &words {
            text.push_str(word);
            text.push_str(&printed(&secrets[secret % secrets.len()], *form));
        }
        let mut unseen = unseen.iter().cycle();
        let text: String =
            text.chars().flat_map(|c| [c.to_string(), unseen.next().unwrap().clone()]).collect();
        for line in text.lines() {
            let shown = mask.shown(line);
            for secret in secrets.iter().flat_map(|secret| secret.lines()).map(str::trim) {
                let words = read(&escape::clean(secret));
                if words.len() < MIN_LINE {
                    continue;
                }
                let encoded = BASE64.encode(secret.as_bytes());
                let inside = encoded[..secret.len() * 8 / 6].to_owned();
                let hex = data_encoding::HEXLOWER.encode(secret.as_bytes());
                let shown = read(&shown);
                let decoded = percent_encoding::percent_decode_str(&shown).decode_utf8_lossy();
                for form in [words, inside, hex.to_uppercase(), hex] {
                    prop_assert!(!decoded.contains(&form), "{:?} is in {:?}", form, shown);
                    prop_assert!(!shown.contains(&form), "{:?} is in {:?}", form, shown);
                }
            }
        }
    }

    #[test]
    fn text_without_secrets_is_unchanged(
        text in "[a-z0-9 .:/@é-]{0,200}", secret in select(vec!["ABCDEF", "A-B-C-D-E-F-G-H\nI-J-K-L-M-N"]),
    ) {
        prop_assume!(!text.contains("://"));
        prop_assert_eq!(&*mask(&[secret]).shown(&text), text.as_str());
    }
}
