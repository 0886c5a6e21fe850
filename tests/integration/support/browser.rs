//! A real browser: Chromium without a window, driven over WebDriver, with a profile of its own.
//!
//! What a page must never do is asserted for every test by [`Browser::finish`]: break its content security
//! policy, raise an error that nobody catches, or ask for what is not there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{
    By, Capabilities, CapabilitiesHelper, ChromiumLikeCapabilities, DesiredCapabilities, TypingData,
    WebDriver, WebElement,
};

use super::patience::{PATIENCE, in_time};
use super::process::Server;

/// Whoever looks at a page may prefer either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Light,
    Dark,
}

/// What they look at it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Desktop,
    Phone,
}

impl Theme {
    fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

impl Size {
    fn name(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Phone => "phone",
        }
    }

    fn pixels(self) -> (u32, u32) {
        match self {
            Self::Desktop => (1280, 1000),
            Self::Phone => (390, 844),
        }
    }
}

/// Runs axe-core, and hands on what it has against the page.
const AXE: &str = "axe.run(document, {resultTypes: ['violations']}).then(found => \
    done(found.violations.map(({id, help, nodes}) => ({id, help, nodes: nodes.map(node => \
    node.html + ' ' + node.failureSummary)}))), error => done(String(error)))";

/// The most of a page that is taken into a picture, in pixels from its top.
const TALLEST: u64 = 2600;

pub struct Browser {
    driver: WebDriver,
    /// Ends before the folder that it writes to.
    _server: Server,
    _folder: TempDir,
}

impl Browser {
    /// Starts one that has never seen anything, as wide as a desktop, in light.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("driver.log");
        let server = Server::start(Command::new("sh"), &log, &["chromedriver", "--port=0"]);
        let port = in_time("chromedriver listens (Debian's package chromium-driver)", listening(&log)).await;
        // chromedriver asks nobody but Chromium, which must not ask a proxy for this machine either.
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let started = WebDriver::builder(format!("http://127.0.0.1:{port}"), capabilities(folder.path()))
            .client(client)
            .connect();
        let driver = in_time("Chromium starts", started).await.unwrap();
        let browser = Self { driver, _server: server, _folder: folder };
        browser.looks(Theme::Light, Size::Desktop).await;
        browser
    }

    pub async fn open(&self, url: &str) {
        in_time(&format!("{url} is loaded"), self.driver.goto(url)).await.unwrap();
    }

    /// Signs in by the form, as a person does, and waits for the page `next`.
    pub async fn sign_in(&self, service: &str, user: &str, password: &str, next: &str) {
        self.open(&format!("{service}{next}")).await;
        self.find("input[name=user]").await.send_keys(user).await.unwrap();
        self.find("input[name=password]").await.send_keys(password).await.unwrap();
        self.click("main form button[type=submit]").await;
        self.until("the sign-in is over", "return !document.querySelector('input[name=password]')").await;
        // The form came with the status 401, which the browser notes as a failure to load.
        self.complaints().await;
    }

    /// The element that a selector finds, once it is there.
    pub async fn find(&self, css: &str) -> WebElement {
        in_time(&format!("the page has {css}"), async {
            loop {
                if let Ok(found) = self.driver.find(By::Css(css)).await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    pub async fn click(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    /// The text of an element as it is shown.
    pub async fn text(&self, css: &str) -> String {
        self.find(css).await.text().await.unwrap()
    }

    /// What a script's function body returns in the page.
    pub async fn eval(&self, script: &str) -> Value {
        self.driver
            .execute(script, Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
            .json()
            .clone()
    }

    /// What a script hands to the function `done`.
    pub async fn eval_async(&self, script: &str) -> Value {
        let script = format!("const done = arguments[0]; {script}");
        let evaluated = self.driver.execute_async(script.as_str(), Vec::new()).await;
        evaluated.unwrap_or_else(|error| panic!("{script}: {error}")).json().clone()
    }

    /// Waits until a script returns something true, and answers that.
    pub async fn until(&self, what: &str, script: &str) -> Value {
        in_time(what, async {
            loop {
                // While a page gives way to another there may be no document.
                if let Ok(answer) = self.driver.execute(script, Vec::new()).await {
                    match answer.json() {
                        Value::Null | Value::Bool(false) => {}
                        Value::Number(zero) if zero.as_f64() == Some(0.0) => {}
                        Value::String(empty) if empty.is_empty() => {}
                        answer => return answer.clone(),
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Waits until a script returns this, as it may do only with a frame that is still to be drawn.
    pub async fn comes_to(&self, script: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self.driver.execute(script, Vec::new()).await.map(|found| found.json().clone());
            match found {
                Ok(found) if found == expected => return,
                // While a page gives way to another there may be no document.
                _ if tokio::time::Instant::now() < deadline => {}
                found => panic!("{script}: {found:?} instead of {expected}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the page shows a text somewhere.
    pub async fn shows(&self, text: &str) {
        let script = format!("return document.body.innerText.includes({})", json!(text));
        self.until(&format!("the page shows {text:?}"), &script).await;
    }

    /// Presses keys wherever the focus is.
    pub async fn press(&self, keys: impl Into<TypingData>) {
        self.driver.action_chain().send_keys(keys).perform().await.unwrap();
    }

    /// Presses Enter once. (The driver presses its keys again where a page comes in between, as after Enter in a form.)
    pub async fn enter(&self) {
        let key = json!({"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
        for kind in ["keyDown", "keyUp"] {
            let mut event = key.clone();
            event["type"] = json!(kind);
            self.devtools("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Turns the wheel over the page, by pixels downwards.
    pub async fn wheel(&self, pixels: i64) {
        let parameters = json!({"type": "mouseWheel", "x": 300, "y": 300, "deltaX": 0, "deltaY": pixels});
        self.devtools("Input.dispatchMouseEvent", parameters).await;
    }

    /// Asks Chromium itself, by its DevTools protocol.
    pub async fn devtools(&self, method: &str, parameters: Value) -> Value {
        let answer = self.driver.cdp().send_raw(method, parameters).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Changes what the page is looked at with.
    pub async fn looks(&self, theme: Theme, size: Size) {
        let (width, height) = size.pixels();
        let phone = size == Size::Phone;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!([
            {"name": "prefers-color-scheme", "value": theme.name()},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Takes pictures of the page as it stands, in light and dark, on a desktop and a phone, to
    /// `target/screenshots/<name>-<theme>-<size>.png`.
    pub async fn photograph(&self, name: &str) {
        for size in [Size::Phone, Size::Desktop] {
            for theme in [Theme::Dark, Theme::Light] {
                self.looks(theme, size).await;
                self.picture(name, theme, size).await;
            }
        }
    }

    /// A picture of what is in sight now, in light on a desktop.
    pub async fn photograph_here(&self, name: &str) {
        let taken = self.devtools("Page.captureScreenshot", json!({"format": "png"})).await;
        keep(name, Theme::Light, Size::Desktop, &taken);
    }

    /// One picture, from the top of the page to its end or [`TALLEST`].
    async fn picture(&self, name: &str, theme: Theme, size: Size) {
        let settled = "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => \
            done(document.documentElement.scrollHeight), 150)))";
        let height = self.eval_async(settled).await.as_u64().unwrap().min(TALLEST);
        let (width, least) = size.pixels();
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height.max(least.into()), "scale": 1});
        let parameters = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let taken = self.devtools("Page.captureScreenshot", parameters).await;
        keep(name, theme, size, &taken);
    }

    /// Asserts that axe-core finds nothing against the page as it stands, in any theme and size.
    pub async fn accessible(&self, page: &str) {
        let axe = std::fs::read_to_string(manifest().join("fixtures/axe-core/axe.min.js")).unwrap();
        for size in [Size::Phone, Size::Desktop] {
            for theme in [Theme::Dark, Theme::Light] {
                self.looks(theme, size).await;
                self.eval(&axe).await;
                let found = self.eval_async(AXE).await;
                assert!(
                    found.as_array().is_some_and(Vec::is_empty),
                    "{page}, {theme:?}, {size:?}: {found:#}"
                );
            }
        }
    }

    /// What the browser has complained of since this was asked last.
    pub async fn complaints(&self) -> Vec<String> {
        let noted = self.driver.browser_log().await.unwrap();
        let bad = noted.into_iter().filter(|entry| entry.level == "SEVERE");
        bad.map(|entry| entry.message).collect()
    }

    /// Ends it, and asserts that the pages gave no cause for complaint.
    pub async fn finish(self) {
        let complaints = self.complaints().await;
        in_time("Chromium ends", self.driver.quit()).await.unwrap();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

fn capabilities(folder: &Path) -> Capabilities {
    let mut wanted = DesiredCapabilities::chrome();
    for argument in [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-proxy-server",
        "--no-first-run",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        // So that it ends with its driver, however that ends.
        "--remote-debugging-pipe",
        &format!("--user-data-dir={}", folder.join("profile").display()),
    ] {
        wanted.add_arg(argument).unwrap();
    }
    wanted.set("goog:loggingPrefs", json!({"browser": "ALL"})).unwrap();
    wanted.into()
}

/// The port that chromedriver says it has taken.
async fn listening(log: &Path) -> u16 {
    loop {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        if let Some((_, rest)) = said.split_once("started successfully on port ") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return digits.parse().unwrap();
        }
        assert!(!said.contains("not found"), "{said}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes a picture that was taken.
fn keep(name: &str, theme: Theme, size: Size, taken: &Value) {
    let png = data_encoding::BASE64.decode(taken["data"].as_str().unwrap().as_bytes()).unwrap();
    let folder = screenshots();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}-{}-{}.png", theme.name(), size.name())), png).unwrap();
}

fn manifest() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where pictures go.
fn screenshots() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest().join("target"), PathBuf::from);
    target.join("screenshots")
}
