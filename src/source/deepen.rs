//! The first of the two requests in which libgit2 asks for one commit at depth 1, answered without the server.
//!
//! Over HTTP each request stands alone. With the first one libgit2 asks where the history will be cut off, and with the
//! second, which repeats the first, for the objects (smart_protocol.c, `git_smart__negotiate_fetch`). At depth 1 the
//! answer is the commit itself (gitprotocol-pack.txt, "shallow-update"), and stands at the beginning of the second
//! answer once more; so a round trip is saved. Of a commit without parents the server would not say it: to cut off
//! there changes nothing. What it refuses, it refuses at the second request.

use bytes::Bytes;

/// The answer, if this is such a request.
pub(super) fn answer(request: &[u8]) -> Option<Bytes> {
    let mut commit = None;
    let mut rest = request;
    loop {
        let digits = std::str::from_utf8(rest.get(..4)?).ok()?;
        let length = usize::from_str_radix(digits, 16).ok()?;
        if length == 0 {
            // All that came was read, and it ended with the depth.
            return None;
        }
        let packet = rest.get(4..length)?;
        rest = rest.get(length..)?;
        if let Some(wanted) = packet.strip_prefix(b"want ") {
            let id = std::str::from_utf8(wanted.get(..40)?).ok()?;
            if commit.replace(id).is_some() {
                return None;
            }
        } else if packet.trim_ascii_end() == b"deepen 1" {
            let cut = format!("0034shallow {}0000", commit?);
            return (rest == b"0000").then(|| cut.into());
        } else if !packet.starts_with(b"shallow ") {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

    fn request(packets: &[&str]) -> Vec<u8> {
        let packet = |text: &&str| match text.is_empty() {
            true => "0000".to_owned(),
            false => format!("{:04x}{text}", text.len() + 4),
        };
        packets.iter().map(packet).collect::<String>().into_bytes()
    }

    #[test]
    fn one_commit_is_cut_off_at_itself() {
        let want = format!("want {ID} multi_ack_detailed side-band-64k ofs-delta shallow\n");
        let other = format!("shallow {}\n", "1".repeat(40));
        let cut = format!("0034shallow {ID}0000");
        for packets in [&[&want, "deepen 1\n", ""][..], &[&want, &other, &other, "deepen 1\n", ""]] {
            assert_eq!(answer(&request(packets)).as_deref(), Some(cut.as_bytes()), "{packets:?}");
        }
    }

    #[test]
    fn other_requests_go_to_the_server() {
        let want = format!("want {ID} shallow\n");
        let have = format!("have {}\n", "1".repeat(40));
        for packets in [
            &[&want, "deepen 2\n", ""][..],
            &[&want, &want, "deepen 1\n", ""],
            &[&want, "deepen 1\n", "", &have, "done\n"],
            &[&want, "deepen 1\n"],
            &[&want, ""],
            &["deepen 1\n", ""],
            &["want x\n", "deepen 1\n", ""],
            &[],
        ] {
            assert_eq!(answer(&request(packets)), None, "{packets:?}");
        }
        for odd in ["zzzz", "0001", "0003", "ffff", "0005", "0009want "] {
            assert_eq!(answer(odd.as_bytes()), None, "{odd}");
        }
    }
}
