//! The SSH agent of a build (draft-ietf-sshm-ssh-agent): it lists keys and signs with them, and neither gives them out
//! nor takes others. Pure: bytes in, bytes out.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::build::ssh_key::SshKey;

/// The longest message, in bytes, as OpenSSH's own agent has it.
const MAX_MESSAGE: usize = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// What one client asks of an agent, cut into its requests.
#[derive(Default)]
pub(super) struct Requests {
    pending: BytesMut,
}

/// The client has sent what is no message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Requests {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next request that is there as a whole.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(length) = self.pending.first_chunk().map(|head| u32::from_be_bytes(*head) as usize) else {
            return Ok(None);
        };
        if length > MAX_MESSAGE {
            return Err(TooLong);
        }
        if self.pending.len() < 4 + length {
            return Ok(None);
        }
        self.pending.advance(4);
        Ok(Some(self.pending.split_to(length).freeze()))
    }
}

/// The answer of an agent that has these keys, as it goes back. A signature is milliseconds of work.
pub(super) fn answer(keys: &[SshKey], request: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    put_string(&mut message, &answer_of(keys, request).unwrap_or_else(|| vec![FAILURE]));
    message
}

fn answer_of(keys: &[SshKey], mut message: &[u8]) -> Option<Vec<u8>> {
    match message.try_get_u8().ok()? {
        REQUEST_IDENTITIES => {
            let mut answer = vec![IDENTITIES_ANSWER];
            answer.put_u32(u32::try_from(keys.len()).ok()?);
            for key in keys {
                put_string(&mut answer, key.public());
                put_string(&mut answer, key.comment().as_bytes());
            }
            Some(answer)
        }
        SIGN_REQUEST => {
            let public = get_string(&mut message)?;
            let data = get_string(&mut message)?;
            let flags = message.try_get_u32().ok()?;
            let key = keys.iter().find(|key| key.public() == public)?;
            let (algorithm, bytes) = key.sign(data, flags)?;
            let mut signature = Vec::new();
            put_string(&mut signature, algorithm.as_bytes());
            put_string(&mut signature, &bytes);
            let mut answer = vec![SIGN_RESPONSE];
            put_string(&mut answer, &signature);
            Some(answer)
        }
        _ => None,
    }
}

/// RFC 4251, section 5. Nothing here comes near its limit of 4 GiB.
fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

fn get_string<'a>(message: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = message.try_get_u32().ok()? as usize;
    let (string, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(body: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        put_string(&mut message, body);
        message
    }

    /// What an agent without keys answers to the requests that are whole.
    fn answers(requests: &mut Requests) -> Vec<u8> {
        std::iter::from_fn(|| requests.next().unwrap()).flat_map(|request| answer(&[], &request)).collect()
    }

    #[test]
    fn answers_come_in_order_however_the_messages_are_cut() {
        let (mut whole, mut cut) = (Requests::default(), Requests::default());
        let messages = [message(&[REQUEST_IDENTITIES]), message(&[27, 1, 2]), message(&[])].concat();
        let expected =
            [message(&[IDENTITIES_ANSWER, 0, 0, 0, 0]), message(&[FAILURE]), message(&[FAILURE])].concat();
        whole.push(&messages);
        assert_eq!(answers(&mut whole), expected);
        let pieces = messages.iter().flat_map(|byte| {
            cut.push(&[*byte]);
            answers(&mut cut)
        });
        assert_eq!(pieces.collect::<Vec<u8>>(), expected);
    }

    #[test]
    fn a_message_of_any_length_is_not_waited_for() {
        let mut requests = Requests::default();
        requests.push(&u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes());
        assert_eq!(requests.next(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn no_message_brings_it_down(body in proptest::collection::vec(any::<u8>(), 0..64), kind in 9_u8..15) {
            let answer = answer(&[], &[&[kind], &body[..]].concat());
            prop_assert!(answer == message(&[FAILURE]) || answer[4] == IDENTITIES_ANSWER);
        }
    }
}
