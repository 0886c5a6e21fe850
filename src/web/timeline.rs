//! The Build & Deploy timeline of an app: its builds and its deploys, newest first, joined where they belong to
//! one deploy; and the image that each of its services would be deployed with.
//!
//! A deploy stands beside the newest of its builds. One that no build is for, such as a step back to an older
//! image, stands where it was first reported.

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;

use super::api::cursor;
use super::db::deploys::DeployRow;
use super::db::selection::{Place, Selection};
use super::db::{millis, time_of};
use super::refusal::Refusal;
use super::service::Timeline;
use crate::publish::name::ImageRepository;
use crate::timeline::protocol::{App, Build, BuildState, DeployReport};

/// Rows of a page: builds, and deploys without one.
const ROWS: usize = 40;
/// Builds of the deploys of a page, at most, also those that are older than the page.
const JOINED: usize = 400;
/// Parts of the timeline that are read until one has something to show.
const STRETCHES: usize = 8;
/// Services, and refs, that a page tells apart.
const SERVICES: usize = 64;
const REFS: usize = 20;

/// What of the timeline is wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub service: Option<String>,
    pub state: Option<BuildState>,
    pub git_ref: Option<String>,
    /// The cursor of the page.
    pub cursor: Option<String>,
}

/// One page of the timeline.
#[derive(Debug)]
pub struct TimelinePage {
    pub entries: Vec<Entry>,
    /// The cursor of the next page; none on the last.
    pub next: Option<String>,
    /// What it can be filtered by.
    pub services: Vec<String>,
    pub refs: Vec<String>,
}

/// Builds and a deploy that belong together; at least one build, or a deploy.
#[derive(Debug)]
pub struct Entry {
    /// Newest first.
    pub builds: Vec<Build>,
    pub deploy: Option<Deployed>,
    /// Its place in the timeline.
    pub at: OffsetDateTime,
}

/// A deploy, as far as it was reported.
#[derive(Debug, Clone)]
pub struct Deployed {
    pub id: String,
    /// None: only its builds name it.
    pub report: Option<DeployReport>,
    /// It is the newest one that is done, for one of its services.
    pub serving: bool,
}

/// The image that services would be deployed with.
#[derive(Debug)]
pub struct Current {
    pub services: Vec<String>,
    /// The newest build with an image for them.
    pub build: Option<Build>,
    /// The deploy that serves them now, as far as was reported, and whether it is the one of `build`.
    pub serving: Option<(Deployed, bool)>,
}

/// A page of the timeline of an app that the caller may see.
pub(super) async fn page(timeline: &Timeline, app: &App, wanted: &Wanted) -> Result<TimelinePage, Refusal> {
    let database = &timeline.database;
    let mut before: Option<Place> = wanted.cursor.as_deref().map(cursor::read).transpose()?;
    // All of a stretch may stand on earlier pages, beside the newest build of its deploy: then the next is read.
    let mut found = stretch(timeline, app, wanted, before.as_ref()).await?;
    for _ in 1..STRETCHES {
        if !found.entries.is_empty() || found.next.is_none() {
            break;
        }
        before = found.next;
        found = stretch(timeline, app, wanted, before.as_ref()).await?;
    }
    let Stretch { entries, next } = found;
    Ok(TimelinePage {
        entries,
        next: next.map(|place| cursor::write(&place)),
        services: database.services(&app.namespace, &app.app, false, SERVICES).await?,
        refs: database.refs(&app.namespace, &app.app, REFS).await?,
    })
}

/// What a part of the timeline has, and where the next begins.
struct Stretch {
    entries: Vec<Entry>,
    next: Option<Place>,
}

async fn stretch(
    timeline: &Timeline,
    app: &App,
    wanted: &Wanted,
    before: Option<&Place>,
) -> Result<Stretch, Refusal> {
    let (database, now) = (&timeline.database, OffsetDateTime::now_utc());
    let selection = Selection {
        app: Some((app.namespace.clone(), app.app.clone())),
        service: wanted.service.clone(),
        state: wanted.state,
        git_ref: wanted.git_ref.clone(),
        before: before.cloned(),
        ..Selection::default()
    };
    let mut rows = database.builds(&selection, ROWS + 1, now).await?;
    let mut more = rows.len() > ROWS;
    rows.truncate(ROWS);
    let builds = rows.into_iter().map(|row| row.shown(&timeline.base, now));
    let mut items: Vec<Item> = builds.map(Item::of_build).collect();
    // A deploy has neither a build's state nor a ref.
    if wanted.state.is_none() && wanted.git_ref.is_none() {
        let oldest = items.last().filter(|_| more).map(|item| item.place.clone());
        let (service, between) = (wanted.service.as_deref(), (before, oldest.as_ref()));
        let alone = database.deploys_alone(&app.namespace, &app.app, service, between, ROWS + 1).await?;
        more |= alone.len() > ROWS;
        let last = alone.last().filter(|_| alone.len() > ROWS);
        let last = last.map(|placed| placed.place.clone());
        items.extend(
            alone
                .into_iter()
                .map(|placed| Item { place: placed.place, what: What::Deploy(Box::new(placed.deploy)) }),
        );
        // Beyond the last of either list, what the other has is not all there is.
        items.retain(|item| last.as_ref().is_none_or(|last| item.place >= *last));
    }
    items.sort_by(|one, other| other.place.cmp(&one.place));
    more |= items.len() > ROWS;
    items.truncate(ROWS);
    let next = items.last().filter(|_| more).map(|item| item.place.clone());
    Ok(Stretch { entries: join(timeline, app, wanted, items, before, now).await?, next })
}

/// A row before it is joined, with its place in the timeline.
struct Item {
    place: Place,
    what: What,
}

enum What {
    Build(Box<Build>),
    Deploy(Box<DeployRow>),
}

impl Item {
    fn of_build(build: Build) -> Self {
        Self { place: place(&build), what: What::Build(Box::new(build)) }
    }
}

fn place(build: &Build) -> Place {
    (millis(build.created_at), build.id.to_string())
}

/// Brings the builds of one deploy together, also those of other pages: at the newest of them.
async fn join(
    timeline: &Timeline,
    app: &App,
    wanted: &Wanted,
    items: Vec<Item>,
    before: Option<&Place>,
    now: OffsetDateTime,
) -> Result<Vec<Entry>, Refusal> {
    let database = &timeline.database;
    let mut ids = Vec::new();
    for item in &items {
        if let What::Build(build) = &item.what {
            ids.extend(build.deploy_id.clone());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    let serving = timeline.database.serving(&app.namespace, &app.app, &app.services).await?;
    let mut groups: HashMap<String, Vec<Build>> = HashMap::new();
    let mut reports = HashMap::new();
    if !ids.is_empty() {
        for row in database.builds_of_deploys(&app.namespace, &ids, JOINED).await? {
            let build = row.shown(&timeline.base, now);
            let id = build.deploy_id.clone();
            if let Some(id) = id.filter(|_| build.app == app.app && wanted.takes(&build)) {
                groups.entry(id).or_default().push(build);
            }
        }
        for row in database.deploys_called(&app.namespace, &ids).await? {
            reports.insert(row.id, row.report);
        }
    }
    let (mut entries, mut told) = (Vec::new(), HashSet::new());
    for item in items {
        let at = time_of(item.place.0);
        match item.what {
            What::Deploy(row) => {
                let deploy = Deployed::new(row.id.clone(), Some(row.report.clone()), &serving);
                entries.push(Entry { builds: Vec::new(), deploy: Some(deploy), at });
            }
            What::Build(build) => {
                let Some(id) = build.deploy_id.clone() else {
                    entries.push(Entry { builds: vec![*build], deploy: None, at });
                    continue;
                };
                if !told.insert(id.clone()) {
                    continue;
                }
                let builds = groups.remove(&id).unwrap_or_else(|| vec![*build]);
                let newest = builds.first().map(place);
                if before.is_some_and(|before| newest.is_some_and(|newest| newest >= *before)) {
                    // An earlier page has it.
                    continue;
                }
                let report = reports.remove(&id);
                entries.push(Entry { builds, deploy: Some(Deployed::new(id, report, &serving)), at });
            }
        }
    }
    Ok(entries)
}

impl Wanted {
    /// The selection once more, of a build that was found by its deploy.
    fn takes(&self, build: &Build) -> bool {
        let in_ref = |wanted: &String| {
            let name = build.git_ref.as_deref().unwrap_or_default();
            name == wanted || name.strip_prefix("refs/heads/") == Some(wanted) || {
                name.strip_prefix("refs/tags/") == Some(wanted)
            }
        };
        self.state.is_none_or(|state| build.state == state)
            && self.service.as_ref().is_none_or(|service| build.services.contains(service))
            && self.git_ref.as_ref().is_none_or(in_ref)
    }
}

/// The deploys that run the image of these builds, as far as was reported, newest first.
pub(super) async fn of_image(
    timeline: &Timeline,
    repository: &ImageRepository,
    builds: &[Build],
    image: &str,
    most: usize,
) -> Result<Vec<Deployed>, Refusal> {
    let (database, namespace) = (&timeline.database, &repository.namespace);
    let ids: Vec<String> = builds.iter().filter_map(|build| build.deploy_id.clone()).collect();
    let mut rows = database.deploys_called(namespace, &ids).await?;
    // One that was reported with another image does not run this one.
    rows.retain(|row| row.report.image.as_deref().is_none_or(|other| other == image));
    for row in database.deploys_of_image(namespace, image, most).await? {
        if rows.iter().all(|known| known.id != row.id) {
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.reported_at));
    rows.truncate(most);
    let services = builds.first().map(|build| build.services.clone()).unwrap_or_default();
    let serving = database.serving(namespace, &repository.app, &services).await?;
    Ok(rows.into_iter().map(|row| Deployed::new(row.id, Some(row.report), &serving)).collect())
}

impl Deployed {
    fn new(id: String, report: Option<DeployReport>, serving: &HashMap<String, DeployRow>) -> Self {
        let serving = report.is_some() && serving.values().any(|row| row.id == id);
        Self { id, report, serving }
    }
}

/// The images of the app's services, those that share one together.
pub(super) async fn current(
    timeline: &Timeline,
    app: &App,
    service: Option<&str>,
) -> Result<Vec<Current>, Refusal> {
    let services: Vec<String> = match service {
        Some(service) => vec![service.to_owned()],
        None => app.services.iter().take(SERVICES).cloned().collect(),
    };
    let serving = timeline.database.serving(&app.namespace, &app.app, &services).await?;
    let now = OffsetDateTime::now_utc();
    let mut groups: Vec<Current> = Vec::new();
    for service in services {
        let newest = app.current.as_ref().filter(|build| build.services.contains(&service));
        let build = match newest {
            Some(build) => Some(build.clone()),
            None if app.current.is_none() => None,
            None => {
                let published = Selection {
                    app: Some((app.namespace.clone(), app.app.clone())),
                    service: Some(service.clone()),
                    state: Some(BuildState::Published),
                    ..Selection::default()
                };
                let row = timeline.database.builds(&published, 1, now).await?.pop();
                row.map(|row| row.shown(&timeline.base, now))
            }
        };
        let serves = serving.get(&service).map(|row| {
            let deploy = Deployed { id: row.id.clone(), report: Some(row.report.clone()), serving: true };
            let image = build.as_ref().and_then(|build| build.image.as_ref());
            let same = build.as_ref().is_some_and(|build| build.deploy_id.as_ref() == Some(&row.id))
                || (row.report.image.is_some() && row.report.image.as_ref() == image);
            (deploy, same)
        });
        let id = |build: &Option<Build>| build.as_ref().map(|build| build.id.clone());
        let deploy =
            |serving: &Option<(Deployed, bool)>| serving.as_ref().map(|(deploy, _)| deploy.id.clone());
        let like = |group: &&mut Current| {
            id(&group.build) == id(&build) && deploy(&group.serving) == deploy(&serves)
        };
        match groups.iter_mut().find(like) {
            Some(group) => group.services.push(service),
            None => groups.push(Current { services: vec![service], build, serving: serves }),
        }
    }
    Ok(groups)
}
