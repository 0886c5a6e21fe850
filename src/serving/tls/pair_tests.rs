//! Tests of reading certificates and keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use time::Duration;
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    /// A certificate of an intermediate authority for `names`, good until `days` from [`NOW`]; the authority's until
    /// `authority_days`.
    fn new(names: &[&str], days: i64, authority_days: i64) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = params(&[], authority_days);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let of_authority = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let own = params(names, days).signed_by(&key, &issuer).unwrap().pem();
        let made = Self { folder: tempfile::tempdir().unwrap() };
        made.write("tls.crt", &(own + &of_authority));
        made.write("tls.key", &key.serialize_pem());
        made
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn config(&self) -> TlsConfig {
        let path = |name| self.folder.path().join(name);
        TlsConfig { certificate: path("tls.crt"), key: path("tls.key") }
    }

    fn pair(&self, host: &str) -> Pair {
        Pair::load(&self.config(), host).unwrap()
    }

    fn fault(&self) -> String {
        Pair::load(&self.config(), "localhost").unwrap_err().to_string()
    }

    fn words(&self, host: &str) -> Vec<String> {
        self.pair(host).concerns(NOW).iter().map(|concern| format!("{concern:?}")).collect()
    }
}

fn params(names: &[&str], days: i64) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = NOW - Duration::days(30);
    params.not_after = NOW + Duration::days(days);
    params
}

#[test]
fn a_certificate_is_for_the_hosts_that_it_names() {
    let made = Made::new(&["registry.example.com", "*.apps.example.com", "127.0.0.1", "::1"], 60, 90);
    for good in [
        "registry.example.com",
        "Registry.Example.com:5000",
        "a.apps.example.com",
        "127.0.0.1:5000",
        "[::1]:5000",
    ] {
        assert_eq!(made.words(good), [""; 0], "{good}");
    }
    for bad in ["localhost:5000", "example.com", "a.b.apps.example.com", "127.0.0.2", "[::2]:5000"] {
        let words = made.words(bad).join("");
        assert!(words.contains("Trouble") && words.contains("does not name"), "{bad}: {words}");
    }
    assert!(made.words("x.example.com:5000")[0].contains("does not name x.example.com,"));
}

#[test]
fn the_chain_ends_with_what_ends_first() {
    for (days, authority_days, ends) in [(60, 20, 20), (20, 60, 20)] {
        assert_eq!(Made::new(&["a.b"], days, authority_days).pair("a.b").ends(), NOW + Duration::days(ends));
    }
    let pair = Made::new(&["a.b"], 20, 60).pair("a.b");
    let at = |days: i64, seconds: i64| {
        pair.of_time(NOW + Duration::days(days) + Duration::seconds(seconds))
            .map(|concern| format!("{concern:?}"))
    };
    assert_eq!(at(6, 0), None);
    let soon = at(6, 1).unwrap();
    assert!(soon.starts_with("EndsSoon") && soon.contains("2026-12-20 12:00 UTC"), "{soon}");
    let over = at(20, 0).unwrap();
    assert!(over.starts_with("Refused") && over.contains("has ended on 2026-12-20 12:00 UTC"), "{over}");
    let early = at(-31, 0).unwrap();
    assert!(early.starts_with("Refused") && early.contains("from 2026-10-31 12:00 UTC on"), "{early}");
}

#[test]
fn what_cannot_be_served_is_named_with_its_file() {
    let made = Made::new(&["localhost"], 60, 60);
    let (certificate, key) = (made.read("tls.crt"), made.read("tls.key"));
    let half = |text: &str| text[..text.len() / 3].to_owned();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let authority_first: String = {
        let second = certificate[1..].find("-----BEGIN").unwrap() + 1;
        format!("{}{}", &certificate[second..], &certificate[..second])
    };
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    for (file, text, expected) in [
        ("tls.key", other, "is not that of the first certificate in"),
        ("tls.crt", authority_first, "is not that of the first certificate in"),
        ("tls.key", locked, "has no private key in it"),
        ("tls.key", half(&key), "it may be half written"),
        ("tls.key", String::new(), "has no private key in it"),
        ("tls.crt", half(&certificate), "it may be half written"),
        ("tls.crt", String::new(), "has no certificate in it"),
        ("tls.crt", key.clone(), "has no certificate in it"),
        ("tls.crt", garbled, "cannot be read"),
    ] {
        made.write("tls.crt", &certificate);
        made.write("tls.key", &key);
        made.write(file, &text);
        let fault = made.fault();
        let path = made.folder.path().join(file).display().to_string();
        assert!(fault.contains(expected) && fault.contains(&path), "{expected}: {fault}");
    }
    fs::remove_file(made.folder.path().join("tls.crt")).unwrap();
    assert!(made.fault().contains("tls.crt cannot be read (No such file"), "{}", made.fault());
}

fn openssl(folder: &std::path::Path, arguments: &str) {
    let output = std::process::Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl is needed");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn which_keys_and_certificates_can_be_used_is_said() {
    let made = Made::new(&["localhost"], 60, 60);
    let folder = made.folder.path();
    let few_bits = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out tls.key";
    for key in [few_bits, "genpkey -algorithm ED448 -out tls.key"] {
        openssl(folder, key);
        let fault = made.fault();
        assert!(
            fault.contains("tls.key cannot be used (") && fault.contains("RSA with 2048 bits"),
            "{fault}"
        );
    }
    openssl(folder, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out tls.key");
    openssl(folder, "req -new -key tls.key -subj /CN=localhost -out tls.csr");
    openssl(folder, "x509 -req -in tls.csr -key tls.key -days 60 -out tls.crt");
    let fault = made.fault();
    assert!(fault.contains("tls.crt is of X.509 version 1, and only version 3 can be used"), "{fault}");
}

#[test]
fn an_authority_of_an_old_version_is_named_by_its_place_unless_it_is_a_root() {
    let made = Made::new(&["localhost"], 60, 60);
    let more = made.read("tls.crt");
    let folder = made.folder.path();
    for name in ["root", "old", "tls"] {
        openssl(folder, &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"));
        openssl(folder, &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"));
    }
    made.write("names", "subjectAltName=DNS:localhost\n");
    let issue = |name: &str, by: &str, more: &str| {
        openssl(folder, &format!("x509 -req -in {name}.csr {by} -days 60 -out {name}.crt{more}"));
        made.read(&format!("{name}.crt"))
    };
    let root = issue("root", "-key root.key", "");
    let old = issue("old", "-CA root.crt -CAkey root.key -CAcreateserial", "");
    let own = issue("tls", "-CA old.crt -CAkey old.key -CAcreateserial", " -extfile names");
    made.write("tls.crt", &[&*own, &old, &root].concat());
    let fault = made.fault();
    assert!(
        fault.contains("certificate 2 of 3 in ") && fault.contains("/tls.crt is of X.509 version 1"),
        "{fault}"
    );
    assert!(fault.contains("basicConstraints=CA:TRUE"), "{fault}");

    let own = issue("tls", "-CA root.crt -CAkey root.key -CAcreateserial", " -extfile names");
    made.write("tls.crt", &[&*own, &root].concat());
    made.pair("localhost");
    made.write("tls.crt", &[&*own, &root, &more].concat());
    made.pair("localhost");
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let made = Made::new(&["localhost"], 60, 60);
    let path = made.folder.path().join("tls.crt");
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    let (config, (tell, told)) = (made.config(), std::sync::mpsc::channel());
    std::thread::spawn(move || tell.send(Pair::load(&config, "localhost").unwrap_err().to_string()));
    let fault = told.recv_timeout(std::time::Duration::from_secs(20)).expect("a pipe does not hold it up");
    assert!(fault.contains("tls.crt cannot be read (it is no regular file)"), "{fault}");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(made.fault().contains("(it is no regular file)"), "{}", made.fault());
}

#[test]
fn a_key_that_others_may_read_is_complained_of() {
    let made = Made::new(&["a.b"], 60, 60);
    let key = made.folder.path().join("tls.key");
    for (mode, is_open) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let words = made.words("a.b").join("");
        assert_eq!(words.contains("is open to all users"), is_open, "{mode:o}: {words}");
    }
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever lies in the files, it is a pair or a fault, and never one whose key is another's.
        #[test]
        fn are_a_pair_or_a_fault(at in 0usize..2000, byte: u8, in_key: bool, rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let made = Made::new(&["localhost"], 60, 60);
            let file = made.folder.path().join(if in_key { "tls.key" } else { "tls.crt" });
            let mut bytes = fs::read(&file).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.splice(at..at, rest);
            fs::write(&file, &bytes).unwrap();
            if let Ok(pair) = Pair::load(&made.config(), "localhost") {
                prop_assert!(pair.key.keys_match().is_ok());
            }
        }
    }
}
