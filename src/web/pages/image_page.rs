//! `/images/<namespace>/<app>.<repository>:<tag>`: what is in an image, what made it, and what runs it.

use askama::Template;
use http::StatusCode;
use time::OffsetDateTime;

use super::document::{Document, Frame, Viewer};
use super::facts;
use super::icons::Icon;
use super::image::ImageUrl;
use super::query::deploy_page;
use super::words::{self, Moment};
use crate::telemetry::printable::printable;
use crate::web::images::{Content, Image, Layer, Missing, Previous};

/// Values of one kind that the configuration lists.
const LISTED: usize = 200;
/// The width of the bar of all layers, and of the bar beside each, in units of their own.
const WHOLE: f64 = 1000.0;
const SHARE: f64 = 120.0;

#[derive(Template)]
#[template(path = "image.html")]
struct ImagePage {
    frame: Frame,
    namespace: String,
    app: String,
    image: ImageUrl,
    serving: bool,
    size: Option<String>,
    platform: Option<String>,
    published: Option<Moment>,
    digest: Option<(String, String)>,
    build: Option<MadeBy>,
    deploys: Vec<RunBy>,
    content: Option<ContentView>,
    /// Why it is not shown what is in it.
    missing: Option<&'static str>,
    inspect: String,
    icons: Icons,
}

struct Icons {
    copy: Icon,
}

struct MadeBy {
    id: String,
    short: String,
    git_ref: Option<String>,
}

struct RunBy {
    id: String,
    href: String,
    word: &'static str,
}

struct ContentView {
    compared: Option<Compared>,
    bars: Vec<Bar>,
    layers: Vec<LayerView>,
    /// Names and values; those of one name together.
    config: Vec<(&'static str, Vec<String>)>,
    about: Vec<(&'static str, Vec<String>)>,
}

/// What is new since the previous image.
struct Compared {
    short: String,
    href: String,
    age: Moment,
    fresh: String,
    whole: String,
    /// `grew by 1.6 MB`
    change: String,
}

/// A part of the bar of all layers.
struct Bar {
    x: String,
    width: String,
    fresh: bool,
    label: String,
}

struct LayerView {
    number: usize,
    /// The instruction, and the rest of the step.
    instruction: String,
    rest: String,
    /// As the configuration has it.
    whole: String,
    digest: String,
    brief: String,
    size: String,
    /// The width of its bar.
    share: String,
    fresh: bool,
    /// Beside the previous image: `same`, `new`, `+400 kB`; and what a node that has that one pulls.
    added: Option<String>,
    pulled: Option<String>,
}

pub fn image(viewer: &Viewer, image: &Image, now: OffsetDateTime) -> Document {
    let repository = &image.name.repository;
    let made = image.made.as_ref();
    let content = image.content.as_ref().ok();
    let digest = content.map(|content| content.digest).or(made.and_then(|build| build.digest));
    let size = content.map(|content| content.size).or(made.and_then(|build| build.size));
    let template = ImagePage {
        frame: Frame::new(Some(viewer)),
        namespace: repository.namespace.to_string(),
        app: repository.app.to_string(),
        image: ImageUrl::new(&image.url),
        serving: image.deploys.iter().any(|deploy| deploy.serving),
        size: size.map(words::size),
        platform: content.map(|content| platform(&content.config.os, content)),
        published: made.and_then(|build| build.finished_at).map(|at| Moment::new(at, now)),
        digest: digest.as_ref().map(facts::digest),
        build: made.map(|build| MadeBy {
            id: build.id.to_string(),
            short: build.commit.short().to_owned(),
            git_ref: facts::short_ref(build),
        }),
        deploys: image
            .deploys
            .iter()
            .filter_map(|deploy| {
                let report = deploy.report.as_ref()?;
                let word = if deploy.serving { "serving" } else { report.state.as_str() };
                let href = deploy_page(report.namespace.as_str(), &deploy.id);
                Some(RunBy { id: printable(&deploy.id), href, word })
            })
            .collect(),
        content: content.map(|content| ContentView::new(content, image.previous.as_ref(), now)),
        missing: image.content.as_ref().err().map(|missing| match missing {
            Missing::NoStore => "This service does not see the store, where images lie.",
            Missing::Gone => "The store has no image of this name any more.",
            Missing::Unreadable => "What the store has of it cannot be read; the service’s log says why.",
        }),
        inspect: printable(&format!("skopeo inspect --config docker://{}", image.url)),
        icons: Icons { copy: Icon::Copy },
    };
    Document::render(StatusCode::OK, &template)
}

fn platform(os: &str, content: &Content) -> String {
    let parts = [Some(os), Some(content.config.architecture.as_str()), content.config.variant.as_deref()];
    let parts = parts.into_iter().flatten().filter(|part| !part.is_empty());
    printable(&parts.collect::<Vec<_>>().join("/"))
}

impl ContentView {
    fn new(content: &Content, previous: Option<&Previous>, now: OffsetDateTime) -> Self {
        let had = |layer: &Layer| previous.is_some_and(|previous| contains(&previous.layers, &layer.digest));
        let layers_size: u64 = content.layers.iter().map(|layer| layer.size).sum();
        let unit = WHOLE / (layers_size.max(1) as f64);
        let largest = content.layers.iter().map(|layer| layer.size).max().unwrap_or_default().max(1);
        let (mut bars, mut at) = (Vec::new(), 0.0);
        let mut layers = Vec::new();
        for (index, layer) in content.layers.iter().enumerate() {
            let fresh = previous.is_some() && !had(layer);
            let width = layer.size as f64 * unit;
            bars.push(Bar {
                x: format!("{at:.2}"),
                // A gap between two, where there is room for one.
                width: format!("{:.2}", if width > 4.0 { width - 2.0 } else { width.max(0.5) }),
                fresh,
                label: format!("layer {}: {}", index + 1, words::size(layer.size)),
            });
            at += width;
            let share = SHARE * layer.size as f64 / largest as f64;
            layers.push(LayerView::new(index, layer, previous, fresh, share));
        }
        let execution = content.config.execution();
        let label = |name: &str| {
            let labels = execution.labels.as_ref();
            labels.and_then(|labels| labels.get(name)).map(|value| vec![printable(value)])
        };
        let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
        let keys = |map: &Option<std::collections::BTreeMap<String, serde_json::Value>>| {
            map.iter().flat_map(|map| map.keys().cloned()).collect::<Vec<_>>()
        };
        let one = |text: &Option<String>| text.iter().cloned().collect::<Vec<_>>();
        let config = [
            ("Entrypoint", vec![words(&execution.entrypoint).join(" ")]),
            ("Command", vec![words(&execution.cmd).join(" ")]),
            ("User", one(&execution.user)),
            ("Workdir", one(&execution.working_dir)),
            ("Ports", keys(&execution.exposed_ports)),
            ("Volumes", keys(&execution.volumes)),
            ("Stop signal", one(&execution.stop_signal)),
            ("Env", words(&execution.env)),
        ];
        let about = [
            ("Source", label("org.opencontainers.image.source")),
            ("Services", label("net.buildgrid.services")),
            ("Definition", content.definition.as_deref().map(|text| vec![printable(text)])),
        ];
        Self {
            compared: previous.map(|previous| Compared::new(content, previous, now)),
            bars,
            layers,
            config: config
                .into_iter()
                .map(|(name, values)| (name, listed(values)))
                .filter(|(_, values)| !values.is_empty())
                .collect(),
            about: about.into_iter().filter_map(|(name, values)| Some((name, values?))).collect(),
        }
    }
}

fn listed(mut values: Vec<String>) -> Vec<String> {
    values.retain(|value| !value.is_empty());
    let more = values.len().saturating_sub(LISTED);
    values.truncate(LISTED);
    let mut values: Vec<String> = values.iter().map(|value| printable(value)).collect();
    if more > 0 {
        values.push(format!("and {more} more"));
    }
    values
}

fn contains(layers: &[Layer], digest: &str) -> bool {
    layers.iter().any(|layer| layer.digest == digest)
}

impl Compared {
    fn new(content: &Content, previous: &Previous, now: OffsetDateTime) -> Self {
        let fresh = content.layers.iter().filter(|layer| !contains(&previous.layers, &layer.digest));
        let change = match content.size.checked_sub(previous.size) {
            Some(0) => "is as large as that one".to_owned(),
            Some(grown) => format!("grew by {}", words::size(grown)),
            None => format!("shrank by {}", words::size(previous.size - content.size)),
        };
        Self {
            short: previous.build.commit.short().to_owned(),
            href: previous.build.image.as_deref().map(|url| ImageUrl::new(url).page()).unwrap_or_default(),
            age: Moment::new(previous.build.finished_at.unwrap_or(previous.build.created_at), now),
            fresh: words::size(fresh.map(|layer| layer.size).sum()),
            whole: words::size(content.size),
            change,
        }
    }
}

impl LayerView {
    fn new(index: usize, layer: &Layer, previous: Option<&Previous>, fresh: bool, share: f64) -> Self {
        let whole = layer.step.as_deref().unwrap_or_default();
        let step = step(whole);
        let (instruction, rest) = step.split_once(' ').unwrap_or((step.as_str(), ""));
        let (instruction, rest) = match layer.step {
            Some(_) if instruction.chars().all(|c| c.is_ascii_uppercase()) => (instruction, rest),
            Some(_) => ("", step.as_str()),
            None => ("", "its step is not known"),
        };
        let before = previous.and_then(|previous| {
            let same = |other: &&Layer| layer.step.is_some() && other.step == layer.step;
            previous.layers.iter().find(same)
        });
        Self {
            number: index + 1,
            instruction: printable(instruction),
            rest: printable(rest),
            whole: printable(whole),
            digest: printable(&layer.digest),
            brief: printable(&format!("{:.14}…", layer.digest)),
            size: words::size(layer.size),
            share: format!("{:.1}", share.max(1.0)),
            fresh,
            added: previous.map(|_| match (fresh, before.map(|before| before.size)) {
                (false, _) => "same".to_owned(),
                (true, Some(before)) if before > layer.size => {
                    format!("−{}", words::size(before - layer.size))
                }
                (true, Some(before)) => format!("+{}", words::size(layer.size - before)),
                (true, None) => "new".to_owned(),
            }),
            pulled: fresh.then(|| format!("{} to pull", words::size(layer.size))),
        }
    }
}

/// A step as a Dockerfile has it, of the words of a history: without the shell, the arguments handed to it and
/// BuildKit's mark.
fn step(history: &str) -> String {
    let text = history.trim().trim_end_matches("# buildkit").trim_end();
    const SHELL: &str = "/bin/sh -c ";
    let text = match text.strip_prefix(SHELL) {
        Some(rest) => match rest.strip_prefix("#(nop)") {
            Some(instruction) => instruction.trim_start().to_owned(),
            None => format!("RUN {rest}"),
        },
        None => match text.strip_prefix("RUN ").and_then(|run| Some((run, run.find(SHELL)?))) {
            // `|1 NAME=value /bin/sh -c …` where arguments were handed to it.
            Some((run, at)) if at == 0 || run.starts_with('|') => format!("RUN {}", &run[at + SHELL.len()..]),
            _ => text.to_owned(),
        },
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn steps_read_as_in_the_dockerfile() {
        for (history, expected) in [
            ("RUN /bin/sh -c apt-get update # buildkit", "RUN apt-get update"),
            ("RUN |1 A=b c /bin/sh -c make   all # buildkit", "RUN make all"),
            ("COPY . . # buildkit", "COPY . ."),
            ("/bin/sh -c #(nop) ADD file:1 in / ", "ADD file:1 in /"),
            ("/bin/sh -c make", "RUN make"),
            ("RUN [\"make\"]", "RUN [\"make\"]"),
            ("fake layer 0", "fake layer 0"),
            ("", ""),
        ] {
            assert_eq!(step(history), expected, "{history}");
        }
    }

    #[test]
    fn what_is_new_is_told_layer_by_layer() {
        let page = image(&samples::viewer(), &samples::image(), samples::NOW);
        let html = page.html();
        assert!(html.contains("<b>42.2 MB</b> of 98.7 MB are new"), "{html}");
        assert!(html.contains("The image grew by 1.6 MB"), "{html}");
        assert!(html.contains("+400 kB") && html.contains("32.9 MB to pull"), "{html}");
        assert!(html.contains("<b>COPY</b> --from=build /usr/local/bundle /usr/local/bundle"), "{html}");
        assert!(html.contains("RAILS_ENV=production") && html.contains("linux/amd64"), "{html}");
    }

    #[test]
    fn without_a_store_the_builds_word_stands() {
        let known = Image { content: Err(Missing::NoStore), previous: None, ..samples::image() };
        let page = image(&samples::viewer(), &known, samples::NOW);
        let html = page.html();
        assert!(html.contains("does not see the store") && html.contains("98.7 MB"), "{html}");
        assert!(html.contains("skopeo inspect --config docker://registry.example.com/acme"), "{html}");
    }
}
