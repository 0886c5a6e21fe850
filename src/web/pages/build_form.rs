//! `/build`: a form to build a commit, which comes back with what is wrong at each field.

use askama::Template;
use http::StatusCode;

use super::document::{Document, Frame, Viewer};
use super::icons::Icon;
use super::query::app_page;
use crate::publish::name::{AppName, Namespace};
use crate::telemetry::printable::printable;
use crate::web::build_form::{APP, BuildForm, FAKE, FieldFault, NAMESPACE, REPOSITORY, SET, is_needed};

#[derive(Template)]
#[template(path = "build_form.html")]
struct BuildFormPage {
    frame: Frame,
    id: String,
    /// The app that the form is about, and its page.
    of: Option<(String, String)>,
    groups: Vec<Group>,
    namespaces: Vec<String>,
    /// What no field is to blame for.
    general: Vec<String>,
    /// The fields with faults: name and label.
    faulty: Vec<(&'static str, &'static str)>,
    icons: Icons,
}

struct Icons {
    failed: Icon,
    chevron: Icon,
}

/// Fields that belong together.
struct Group {
    name: &'static str,
    note: &'static str,
    /// Few need these: they are folded away while nothing stands in them.
    folded: bool,
    open: bool,
    fields: Vec<FieldView>,
}

struct FieldView {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    example: &'static str,
    input: Input,
    value: String,
    fault: Option<String>,
    needed: bool,
    /// The one to begin with.
    first: bool,
}

/// What a field is filled in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// A name, URL or id: in the width of letters that are all alike.
    Code,
    /// The same over the whole width.
    LongCode,
    Lines,
    Number,
    Flag,
}

/// Name, label, hint, example and input.
type Row = (&'static str, &'static str, &'static str, &'static str, Input);

const WHAT: &[Row] = &[
    (NAMESPACE, "Namespace", "", "acme", Input::Code),
    (APP, "App", "", "shop", Input::Code),
    (
        "repository",
        "Repository",
        "https:// without a login; ssh://, where the namespace has a key",
        "https://git.example.com/acme/storefront.git",
        Input::LongCode,
    ),
    (
        "commit",
        "Commit",
        "All 40 digits, as git rev-parse HEAD prints them",
        "9fceb02d0ae598e95dc970b74767f19372d61af8",
        Input::LongCode,
    ),
    ("ref", "Branch or ref", "Where to look if the server gives out no commits by id", "main", Input::Code),
    ("services", "Services", "Separated by blanks; the app’s own name if empty", "web worker", Input::Code),
];

const HOW: &[Row] = &[
    ("root", "Folder", "The build context; the whole repository if empty", ".", Input::Code),
    ("dockerfile", "Dockerfile", "Within that folder", "Dockerfile", Input::Code),
    ("target", "Target", "A stage of the Dockerfile; the last one if empty", "", Input::Code),
    ("variant", "Variant", "Ends the tag, where one commit makes several images", "", Input::Code),
    ("args", "Build arguments", "NAME=value, one a line", "RAILS_ENV=production", Input::Lines),
];

const MORE: &[Row] = &[
    (
        "secrets",
        "Secrets",
        "Names, separated by blanks; the worker has their values",
        "npm-token",
        Input::Code,
    ),
    ("ssh", "SSH agents", "Names, separated by blanks", "", Input::Code),
    ("platform", "Platform", "The engine’s own if empty", "linux/amd64", Input::Code),
    ("timeout", "Time limit in seconds", "The installation’s if empty", "3600", Input::Number),
    ("name", "Name of the repository", "In the image’s name; from the URL if empty", "", Input::Code),
    ("no_cache", "Build every step, cached or not", "", "", Input::Flag),
    ("rebuild", "Build also if the image is there, and replace it", "", "", Input::Flag),
];

const PRETENDED: &[Row] = &[(
    FAKE,
    "Parameters",
    "As JSON; if empty, the commit is really built",
    r#"{"log_lines": 200, "layers": 2}"#,
    Input::Lines,
)];

/// The form; `of` is the app that it is about, if there is one already.
pub fn build_form(
    viewer: &Viewer,
    form: &BuildForm,
    of: Option<(&Namespace, &AppName)>,
    namespaces: &[String],
    faults: &[FieldFault],
    status: StatusCode,
) -> Document {
    let rows = [WHAT, HOW, MORE, PRETENDED].into_iter().flatten();
    let mut names = rows.map(|row| row.0);
    let first = match (faults.is_empty(), form.value(APP).is_empty()) {
        (false, _) => names.find(|&name| faults.iter().any(|fault| fault.field == Some(name))),
        (true, true) => Some(NAMESPACE),
        (true, false) => Some("commit"),
    };
    let group = |name, note, folded, rows: &[Row]| {
        let fields: Vec<_> = rows.iter().map(|row| FieldView::new(row, form, faults, first)).collect();
        let used = fields.iter().any(|field| field.fault.is_some() || !field.value.is_empty());
        Group { name, note, folded, open: used, fields }
    };
    let mut groups = vec![
        group("What", "The image is named after it: namespace, app, repository and commit.", false, WHAT),
        group("How", "What stands here is part of the image’s definition.", false, HOW),
        group("More", "", true, MORE),
    ];
    // Most never see one: it is there where the app was pretended before.
    let pretended = group("Fake build", "All the way except git and Docker.", false, PRETENDED);
    if pretended.open {
        groups.push(pretended);
    }
    let fields = groups.iter().flat_map(|group| &group.fields);
    let faulty =
        fields.filter(|field| field.fault.is_some()).map(|field| (field.name, field.label)).collect();
    let general = faults.iter().filter(|fault| fault.field.is_none());
    let template = BuildFormPage {
        frame: Frame::new(Some(viewer)).of_form(),
        id: form.id.to_string(),
        of: of.map(|(namespace, app)| (app_page(namespace.as_str(), app.as_str()), app.to_string())),
        groups,
        namespaces: namespaces.iter().map(|name| printable(name)).collect(),
        general: general.map(|fault| printable(&fault.what)).collect(),
        faulty,
        icons: Icons { failed: Icon::Failed, chevron: Icon::Chevron },
    };
    Document::render(status, &template)
}

impl FieldView {
    fn new(row: &Row, form: &BuildForm, faults: &[FieldFault], first: Option<&str>) -> Self {
        let &(name, label, hint, example, input) = row;
        let own: Vec<_> = faults.iter().filter(|fault| fault.field == Some(name)).collect();
        Self {
            name,
            label,
            hint,
            example,
            input,
            // Not made printable: it goes back to the service as it came. The template escapes it.
            value: form.value(name).to_owned(),
            fault: own.first().map(|fault| printable(&fault.what)),
            needed: is_needed(name) && (name != REPOSITORY || form.value(FAKE).trim().is_empty()),
            first: Some(name) == first,
        }
    }

    fn is_code(&self) -> bool {
        matches!(self.input, Input::Code | Input::LongCode)
    }

    fn is_wide(&self) -> bool {
        matches!(self.input, Input::LongCode | Input::Lines | Input::Flag)
    }

    /// The ids of what describes it.
    fn described(&self) -> String {
        let hint = (!self.hint.is_empty()).then(|| format!("f-{}-hint", self.name));
        let fault = self.fault.is_some().then(|| format!("f-{}-fault", self.name));
        fault.into_iter().chain(hint).collect::<Vec<_>>().join(" ")
    }

    fn rows(&self) -> usize {
        (self.value.lines().count() + 1).clamp(2, 12)
    }
}
