//! The server's list of refs, and what its first line says the server can do.
//!
//! libgit2 asks for a commit by its id only where the server announces that it allows this, and git's
//! own server does not announce it by default. Over HTTP it allows it all the same, if a ref leads to
//! the commit (upload-pack.c, `check_non_tip`: "stateless_rpc"), since between the list and the request
//! the refs may have moved; JGit does so too. So the announcement is added here where it is missing,
//! and one commit comes with depth 1 from servers that would otherwise cost a full clone. A server
//! that means what it does not announce refuses the request, and the fetch falls back to refs. Over SSH
//! git's own server gives out in this way only what a ref points at.

use bytes::Bytes;

/// The longest packet, its four digits of length included (gitprotocol-common.txt, "pkt-line Format").
const MAX_PACKET: usize = 65_520;
const BY_ID: &[u8] = b" allow-reachable-sha1-in-want";

/// The beginning of the list, while it is being collected.
pub(super) struct Advertisement {
    begun: Vec<u8>,
    /// Whether each request of a fetch stands alone, as over HTTP.
    is_stateless: bool,
}

/// The beginning of the list as libgit2 shall see it.
pub(super) struct Beginning {
    pub(super) bytes: Bytes,
    /// The server looks for a commit that it is asked for by id behind all of its refs: if it refuses
    /// it, no fetch of refs can bring it. True for those that announce it and for git itself over HTTP.
    pub(super) refuses_only_missing: bool,
    /// What the server announces, as libgit2 shall see it.
    pub(super) announced: Option<Announced>,
}

/// What a server has said that it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announced {
    capabilities: Bytes,
    pub(super) refuses_only_missing: bool,
}

/// A list in which the server announces the same and has no refs, as that of an empty repository.
pub(super) fn list_without_refs(announced: &Announced) -> Bytes {
    let mut none = format!("{} capabilities^{{}}\0", "0".repeat(40)).into_bytes();
    none.extend_from_slice(&announced.capabilities);
    none.push(b'\n');
    let mut list = b"001e# service=git-upload-pack\n0000".to_vec();
    list.extend_from_slice(format!("{:04x}", none.len() + 4).as_bytes());
    list.extend_from_slice(&none);
    list.extend_from_slice(b"0000");
    list.into()
}

impl Advertisement {
    pub(super) fn new(is_stateless: bool) -> Self {
        Self { begun: Vec::new(), is_stateless }
    }

    /// Takes the next piece (empty at the end of the list); answers once the first ref is whole.
    pub(super) fn push(&mut self, piece: &[u8]) -> Option<Beginning> {
        self.begun.extend_from_slice(piece);
        match first_ref(&self.begun) {
            Scan::Incomplete if !piece.is_empty() => None,
            Scan::Found { start, end } => {
                let beginning = announce(&self.begun, start, end, self.is_stateless);
                self.begun = Vec::new();
                Some(beginning)
            }
            // Not what it should be: libgit2 shall say so.
            Scan::Incomplete | Scan::Unknown => {
                let bytes = Bytes::from(std::mem::take(&mut self.begun));
                Some(Beginning { bytes, refuses_only_missing: false, announced: None })
            }
        }
    }
}

enum Scan {
    Incomplete,
    Unknown,
    Found { start: usize, end: usize },
}

/// The packet of the first ref: behind the packet that names the service, and a flush.
fn first_ref(bytes: &[u8]) -> Scan {
    let mut at = 0;
    loop {
        let Some(digits) = bytes.get(at..at + 4) else { return Scan::Incomplete };
        let length = std::str::from_utf8(digits).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        match length {
            Some(0) => at += 4,
            Some(length @ 5..=MAX_PACKET) => {
                let Some(packet) = bytes.get(at + 4..at + length) else { return Scan::Incomplete };
                if !packet.starts_with(b"# ") {
                    return Scan::Found { start: at, end: at + length };
                }
                at += length;
            }
            _ => return Scan::Unknown,
        }
        // More than the service's packet and its flush is no list of refs.
        if at > 2 * MAX_PACKET {
            return Scan::Unknown;
        }
    }
}

fn announce(bytes: &[u8], start: usize, end: usize, is_stateless: bool) -> Beginning {
    let unchanged = |refuses_only_missing, announced| Beginning {
        bytes: Bytes::copy_from_slice(bytes),
        refuses_only_missing,
        announced,
    };
    let packet = &bytes[start + 4..end];
    let Some(nul) = packet.iter().position(|byte| *byte == 0) else { return unchanged(false, None) };
    let announced = |list: &[u8], refuses_only_missing| {
        // Of a list without refs, nothing can be said of HEAD.
        let known = list.split(|byte| *byte == b' ').filter(|one| !one.starts_with(b"symref="));
        let capabilities = known.collect::<Vec<_>>().join(&b' ').into();
        Some(Announced { capabilities, refuses_only_missing })
    };
    let list = packet[nul + 1..].trim_ascii();
    let mut capabilities = list.split(|byte| *byte == b' ');
    let has = |wanted: &[u8]| capabilities.clone().any(|capability| capability == wanted);
    if has(b"allow-reachable-sha1-in-want") {
        return unchanged(true, announced(list, true));
    }
    let git = is_stateless && capabilities.any(|capability| capability.starts_with(b"agent=git/"));
    let length = end - start + BY_ID.len();
    if length > MAX_PACKET {
        return unchanged(false, None);
    }
    let text = packet.strip_suffix(b"\n").unwrap_or(packet);
    let mut changed = bytes[..start].to_vec();
    changed.extend_from_slice(format!("{:04x}", 4 + text.len() + BY_ID.len() + 1).as_bytes());
    changed.extend_from_slice(text);
    changed.extend_from_slice(BY_ID);
    changed.push(b'\n');
    changed.extend_from_slice(&bytes[end..]);
    let announced = announced(&[list, BY_ID].concat(), git);
    Beginning { bytes: changed.into(), refuses_only_missing: git, announced }
}

/// The text of an error packet that a server's answer begins with, as in
/// `ERR upload-pack: not our ref <id>`.
pub(super) fn error_packet(answer: &[u8]) -> Option<String> {
    let digits = std::str::from_utf8(answer.get(..4)?).ok()?;
    let length = usize::from_str_radix(digits, 16).ok()?;
    let packet = answer.get(4..length.min(answer.len()))?;
    let text = String::from_utf8_lossy(packet.strip_prefix(b"ERR ")?);
    Some(text.chars().filter(|character| !character.is_control()).take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

    fn packet(payload: &str) -> String {
        format!("{:04x}{payload}", payload.len() + 4)
    }

    fn list(capabilities: &str) -> String {
        let service = packet("# service=git-upload-pack\n");
        let head = packet(&format!("{ID} HEAD\0{capabilities}\n"));
        format!("{service}0000{head}{}0000", packet(&format!("{ID} refs/heads/main\n")))
    }

    /// The list as libgit2 sees it when it comes in pieces of `size` bytes.
    fn seen(list: &str, size: usize) -> (String, bool) {
        let mut advertisement = Advertisement::new(true);
        let mut pieces = list.as_bytes().chunks(size);
        let beginning = loop {
            if let Some(beginning) = advertisement.push(pieces.next().unwrap_or_default()) {
                break beginning;
            }
        };
        let mut bytes = beginning.bytes.to_vec();
        pieces.for_each(|piece| bytes.extend_from_slice(piece));
        (String::from_utf8(bytes).unwrap(), beginning.refuses_only_missing)
    }

    #[test]
    fn announces_what_the_server_does_not() {
        for size in [1, 7, 4096] {
            let expected = list("multi_ack shallow allow-reachable-sha1-in-want");
            assert_eq!(seen(&list("multi_ack shallow"), size), (expected, false));
            let git = list("shallow agent=git/2.39.5");
            let expected = list("shallow agent=git/2.39.5 allow-reachable-sha1-in-want");
            assert_eq!(seen(&git, size), (expected, true));
            let announced = list("shallow allow-reachable-sha1-in-want agent=x");
            assert_eq!(seen(&announced, size), (announced, true));
        }
    }

    #[test]
    fn leaves_alone_what_it_does_not_know() {
        let service = packet("# service=git-upload-pack\n");
        for list in [
            "<html>".to_owned(),
            String::new(),
            "0004".to_owned(),
            "fffe".to_owned(),
            format!("{service}0000"),
            format!("{service}0000{}", packet("version 1\n")),
            "0000".repeat(100_000),
        ] {
            assert_eq!(seen(&list, 4096), (list.clone(), false));
        }
        let full = list(&"x".repeat(MAX_PACKET - 4 - ID.len() - " HEAD\0\n".len()));
        assert_eq!(seen(&full, 4096), (full, false));
    }

    #[test]
    fn what_was_announced_stands_in_a_list_without_refs() {
        let announced = |list: &str| Advertisement::new(true).push(list.as_bytes()).unwrap().announced;
        let git = announced(&list("shallow symref=HEAD:refs/heads/main agent=git/2.39.5")).unwrap();
        assert!(git.refuses_only_missing);
        let service = packet("# service=git-upload-pack\n");
        let none = format!("{} capabilities^{{}}\0", "0".repeat(40));
        let expected = "shallow agent=git/2.39.5 allow-reachable-sha1-in-want\n";
        let expected = format!("{service}0000{}0000", packet(&format!("{none}{expected}")));
        assert_eq!(list_without_refs(&git), expected);
        // It is read like any other.
        assert_eq!(announced(&expected).unwrap(), Announced { refuses_only_missing: true, ..git });
        assert_eq!(announced("<html>"), None);
    }

    #[test]
    fn finds_an_error() {
        let refusal = packet(&format!("ERR upload-pack: not our ref {ID}"));
        assert_eq!(error_packet(refusal.as_bytes()).unwrap(), format!("upload-pack: not our ref {ID}"));
        assert_eq!(error_packet(packet("ERR a\u{1b}[31mb\n").as_bytes()).unwrap(), "a[31mb");
        for other in ["", "00", "0008NAK\n", "zzzzERR x", "ffffNAK"] {
            assert_eq!(error_packet(other.as_bytes()), None, "{other}");
        }
    }
}
