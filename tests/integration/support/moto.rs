//! Another S3 server: moto (`pip install 'moto[server]'`), in a process of its own, with objects in its memory. The one of
//! [`s3`](super::s3) cannot keep keys as long as those of a tag that is a commit.

use std::process::{Child, Command, Stdio};

use buildgrid::store::StoreConfig;
use reqwest::{Method, StatusCode};

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
    client: reqwest::Client,
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
        Self { child, address: address.to_string(), client, keys }
    }

    /// What stands at a key.
    pub async fn get(&self, key: &str) -> Option<String> {
        let answer = self.signed(Method::GET, key).send().await.unwrap();
        match answer.status() {
            StatusCode::NOT_FOUND => None,
            _ => Some(answer.error_for_status().unwrap().text().await.unwrap()),
        }
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        let answer = self.signed(Method::PUT, key).body(bytes).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    pub async fn delete(&self, key: &str) {
        let answer = self.signed(Method::DELETE, key).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// It wants a signature, and does not look at it.
    fn signed(&self, method: Method, key: &str) -> reqwest::RequestBuilder {
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential={KEY}/20261130/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
        );
        let url = format!("http://{}/{BUCKET}/{key}", self.address);
        self.client.request(method, url).header("authorization", signed)
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
