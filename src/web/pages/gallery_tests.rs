//! All pages of the samples, written to `target/pages/`, so that they can be looked at:
//! `python3 -m http.server --bind 127.0.0.1 --directory target/pages`.

use std::path::Path;

use time::Duration;

use super::samples::{self, *};
use super::*;
use crate::store::StoreError;
use crate::timeline::protocol::{App, Attempt, AttemptId, AttemptState, Build, BuildState, Page};
use crate::web::build_form::{BuildForm, FieldFault};
use crate::web::credentials::Kept;
use crate::web::images::{Image, Missing};
use crate::web::search::Found;
use crate::web::timeline::TimelinePage;

/// Every page, with the name of its file.
fn pages() -> Vec<(String, Document)> {
    let viewer = viewer();
    let names = [
        "shop", "till", "billing", "search", "mail", "atlas", "reports", "canary", "docs", "api", "proxy",
        "a", "b", "c",
    ];
    let apps = names.iter().zip(all_looks()).map(|(name, last)| app_of(name, last)).collect();
    let first = App { current: None, usual_s: None, ..app_of("shop", building()) };
    let filters = BuildFilters { state: Some(BuildState::Failed), ..BuildFilters::default() };
    let empty = TimelinePage { entries: vec![], next: None, services: vec![], refs: vec![] };
    let mut story = story();
    let ended = Attempt { entries: story.len() as u64, ..attempt() };
    let running = Attempt { complete: false, ended_at: None, entries: 8, ..attempt() };
    let earlier = Attempt {
        id: AttemptId::generate(),
        state: AttemptState::Retrying,
        worker: "worker-2".to_owned(),
        ..attempt()
    };
    let second = Attempt { number: 2, claimed_at: NOW - Duration::seconds(52), ..running.clone() };
    let mut pages = vec![
        ("sign-in".to_owned(), sign_in(Some("User name or password is wrong."), "/")),
        ("apps".to_owned(), page_of_apps(&viewer, &list(apps), &AppFilters::default())),
        (
            "apps-empty".to_owned(),
            page_of_apps(&viewer, &Page { items: vec![], next: None }, &AppFilters::default()),
        ),
        ("app".to_owned(), page_of_app(&app_of("shop", building()), &history(), &BuildFilters::default())),
        ("app-first".to_owned(), page_of_app(&first, &empty, &filters)),
        ("search".to_owned(), search(&viewer, "9fceb02", &found(), NOW)),
        ("search-nothing".to_owned(), search(&viewer, "nonsense", &Found::default(), NOW)),
        ("search-empty".to_owned(), search(&viewer, "", &Found::default(), NOW)),
        ("image".to_owned(), super::image(&viewer, &samples::image(), NOW)),
        ("image-first".to_owned(), super::image(&viewer, &Image { previous: None, ..samples::image() }, NOW)),
        (
            "image-elsewhere".to_owned(),
            super::image(
                &viewer,
                &Image { content: Err(Missing::NoStore), previous: None, ..samples::image() },
                NOW,
            ),
        ),
        (
            "fault".to_owned(),
            fault(http::StatusCode::NOT_FOUND, "There is no such build", "Its id may be misspelt."),
        ),
        ("failed".to_owned(), page_of(failed(), &story, vec![ended])),
        (
            "published".to_owned(),
            page_of(published(), &entries(0..500), vec![Attempt { entries: 7000, ..attempt() }]),
        ),
    ];
    let form = BuildForm::read(b"namespace=acme&app=shop&commit=main&repository=https://git.example.com/acme/storefront.git&ref=main&services=web+worker&args=RAILS_ENV%3Dproduction");
    let shop = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let fault = FieldFault::of(
        Some("commit"),
        "\"main\" is not a full commit id: 40 hex digits are needed".to_owned(),
    );
    for (name, faults) in [("build-form", vec![]), ("build-form-refused", vec![fault])] {
        let namespaces = ["acme".to_owned(), "globex".to_owned()];
        let of = Some((&shop.0, &shop.1));
        pages.push((
            name.to_owned(),
            build_form(&viewer, &form, of, &namespaces, &faults, http::StatusCode::OK),
        ));
    }
    let (kept, new, names) = (kept(true), new_credential(), ["acme", "globex", "smoke"].map(str::to_owned));
    let fresh = Fresh { new: &new, rotated: true };
    for (name, managed, fresh) in [
        ("settings", Some(&kept), None),
        ("settings-rotated", Some(&kept), Some(fresh)),
        ("settings-empty", Some(&samples::none_kept()), None),
        ("settings-elsewhere", Some(&Kept::Elsewhere(StoreError::NoStore("/".into()))), None),
        ("settings-damaged", Some(&samples::damaged()), None),
        ("settings-viewer", None, None),
    ] {
        let shown = Settings { fresh, namespaces: &names, ..settings_of(managed) };
        pages.push((name.to_owned(), settings(&viewer, &shown, NOW)));
    }
    pages.push(("deploy".to_owned(), deploy_page(&deploying(), &pod_lines())));
    story.truncate(8);
    pages.push(("building".to_owned(), page_of(building(), &story, vec![running])));
    let retried = Build { number: Some(2), ..building() };
    pages.push(("second".to_owned(), page_of(retried, &story, vec![earlier, second])));
    for build in all_looks() {
        let attempts = if build.attempt.is_some() { vec![attempt()] } else { Vec::new() };
        pages.push((format!("look-{}", build.id), page_of(build, &[], attempts)));
    }
    pages
}

#[test]
fn pages_can_be_looked_at() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pages");
    std::fs::create_dir_all(folder.join("assets")).unwrap();
    for asset in [
        &assets::STYLE,
        &assets::LOG_STYLE,
        &assets::FORM_STYLE,
        &assets::PLACES_STYLE,
        &assets::SCRIPT,
        &assets::LOG_SCRIPT,
        &assets::ICON,
    ] {
        std::fs::write(folder.join(&asset.path[1..]), asset.body()).unwrap();
    }
    for (name, page) in pages() {
        let html = page.html();
        assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"), "{name}");
        assert!(!html.contains(" style=") && !html.contains("!</"), "{name}");
        std::fs::write(folder.join(format!("{name}.html")), html).unwrap();
    }
}
