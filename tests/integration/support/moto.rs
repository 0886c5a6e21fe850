//! Another S3 server: moto (`pip install 'moto[server]'`), in a process of its own, with objects in its memory. The one of
//! [`s3`](super::s3) cannot keep keys as long as those of a tag that is a commit.

use std::process::{Child, Command, Stdio};

use buildgrid::store::StoreConfig;

use super::address::free_address;
use super::patience::until;
use super::s3::{BUCKET, KEY, SECRET, restrict};

/// One request after the other: moto looks at a condition and puts in two steps.
const SERVE: &str = "
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple('127.0.0.1', int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
";

/// Killed when dropped.
pub struct Moto {
    child: Child,
    address: String,
    keys: tempfile::NamedTempFile,
}

impl Moto {
    pub async fn start() -> Self {
        let address = free_address();
        // Where `scripts/setup` puts it, unless it is installed.
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/moto/bin/python3");
        let python = if std::path::Path::new(own).exists() { own } else { "python3" };
        let mut child = Command::new(python)
            .args(["-c", SERVE, &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("this test needs python3 with moto (pip install 'moto[server]'): {error}")
            });
        until("the S3 server listens", || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the S3 server has ended; it needs moto (pip install 'moto[server]')"
            );
            std::net::TcpStream::connect(address).is_ok()
        })
        .await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let made = client.put(format!("http://{address}/{BUCKET}")).send().await.unwrap();
        made.error_for_status().unwrap();
        let keys = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(keys.path(), format!("AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}\n"))
            .unwrap();
        restrict(keys.path());
        Self { child, address: address.to_string(), keys }
    }

    /// The configuration of a store in it.
    pub fn store(&self) -> StoreConfig {
        StoreConfig {
            url: Some(format!("s3://{BUCKET}")),
            region: Some("us-east-1".to_owned()),
            endpoint: Some(format!("http://{}", self.address)),
            allow_http: true,
            credentials_file: Some(self.keys.path().to_owned()),
            ..StoreConfig::default()
        }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
