//! Cursors: where a list goes on, as a text that clients hand back unread.

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::web::refusal::Refusal;

/// The longest cursor, in characters: ours are far shorter.
const MAX_CURSOR: usize = 1024;

pub(in crate::web) fn write<K: Serialize>(key: &K) -> String {
    BASE64URL_NOPAD.encode(&serde_json::to_vec(key).unwrap_or_default())
}

pub(in crate::web) fn read<K: DeserializeOwned>(cursor: &str) -> Result<K, Refusal> {
    let refused = || Refusal::Malformed("cursor: that is not one; take `next` of the page before".to_owned());
    if cursor.len() > MAX_CURSOR {
        return Err(refused());
    }
    let bytes = BASE64URL_NOPAD.decode(cursor.as_bytes()).map_err(|_| refused())?;
    serde_json::from_slice(&bytes).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let key = (17_i64, "b-1".to_owned());
        assert_eq!(read::<(i64, String)>(&write(&key)).unwrap(), key);
        for bad in ["", "x", "!!", &write(&"other"), &"A".repeat(2000), "é"] {
            assert!(read::<(i64, String)>(bad).is_err(), "{bad}");
        }
    }
}
