//! A context whose files are given out one by one, to an engine that says which it uses: the same files as in the tar,
//! with the same modes and times, in the order of their paths.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use git2::Oid;
use tokio_util::sync::CancellationToken;

use super::content::is_lfs_pointer;
use super::context::ContextSummary;
use super::error::SourceError;
use super::fetched::CommitSource;
use super::submodules::Submodules;
use super::tree::{Entry, Git, Plan, from_top, kind};
use super::walk::{Item, Part, Visitor, shown, walk};

/// The largest piece of a file that is given out at once, in bytes.
const PIECE: usize = 128 << 10;

/// A context of which an engine asks for what it uses.
#[derive(Debug, Clone)]
pub struct ContextFiles {
    recipe: Arc<Recipe>,
    failure: Arc<Mutex<Option<SourceError>>>,
}

/// What a context is made of, over and over: each transfer has repositories of its own.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) source: CommitSource,
    pub(super) modules: Arc<Submodules>,
    pub(super) root: String,
    pub(super) dockerfile: String,
}

/// How large a context is at least: so many files, folders and links, or so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Large {
    pub files: u64,
    pub bytes: u64,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// These paths, which may have wildcards, with what is below them; and perhaps more.
    Paths(Vec<String>),
    /// The Dockerfile and what belongs to it.
    Dockerfile,
}

/// An entry of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    pub path: String,
    pub kind: EntryKind,
    /// Seconds since the epoch.
    pub time: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    Folder,
    Link { target: String },
    File { size: u64, executable: bool },
}

/// The other side of a transfer. Where it breaks off, nobody is there any more.
pub trait Receiver {
    /// Whether it waits for the next entry, which may take a while.
    fn waits(&mut self) -> ControlFlow<()>;
    /// The next entry; they are counted from 0.
    fn entry(&mut self, entry: ContextEntry) -> ControlFlow<()>;
    /// There are no more. From now on files are asked for.
    fn listed(&mut self) -> ControlFlow<()>;
    /// The number of the next file whose content is wanted; waits for it. `None` once there is none.
    fn asked(&mut self) -> Option<u32>;
    /// A piece of the content of a file. An empty one is its end.
    fn content(&mut self, number: u32, piece: &[u8]) -> ControlFlow<()>;
}

impl Recipe {
    pub(super) fn plan(&self) -> Result<Plan, SourceError> {
        Plan::make(self.source.clone(), &self.modules, &self.root, self.dockerfile.clone())
    }
}

impl ContextFiles {
    pub(super) fn new(recipe: Recipe) -> Self {
        Self { recipe: Arc::new(recipe), failure: Arc::default() }
    }

    /// Whether the context is so large, and all its names and targets are UTF-8: the engine takes no others this way.
    /// Ends with `stop`.
    pub(super) fn can_carry(plan: &Plan, from: Large, stop: &CancellationToken) -> Result<bool, SourceError> {
        let mut names = Names { are_text: true, size: ContextSummary::default(), from, stop };
        walk(plan, &Part::All, &mut names)?;
        Ok(names.are_text && names.is_large())
    }

    /// What tells this context from every other.
    pub fn key(&self) -> String {
        let Recipe { source, root, dockerfile, .. } = &*self.recipe;
        format!("{}\0{}\0{root}\0{dockerfile}", source.url, source.commit)
    }

    /// Gives out what is wanted. Blocks.
    pub fn transfer(&self, wanted: &Wanted, receiver: &mut dyn Receiver) -> Result<(), SourceError> {
        let done = self.try_transfer(wanted, receiver);
        if let Err(error) = &done
            && *error != SourceError::Cancelled
        {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
        done
    }

    /// Why a transfer was not made whole, if one was not.
    pub fn failure(&self) -> Option<SourceError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn try_transfer(&self, wanted: &Wanted, receiver: &mut dyn Receiver) -> Result<(), SourceError> {
        let plan = self.recipe.plan()?;
        let part = part(&plan, wanted, receiver)?;
        let mut listing = Listing {
            plan: &plan,
            receiver,
            files: Vec::new(),
            folder: Rc::default(),
            summary: ContextSummary::default(),
        };
        walk(&plan, &part, &mut listing)?;
        let Listing { files, receiver, .. } = listing;
        gone(receiver.listed())?;
        while let Some(number) = receiver.asked() {
            let Some(Some(file)) = files.get(number as usize) else { return Err(SourceError::Cancelled) };
            let path = file.path();
            let blob = file.git.file(file.id, &path)?;
            if is_lfs_pointer(blob.content()) {
                return Err(SourceError::LfsPointers { paths: vec![shown(&path)] });
            }
            for piece in blob.content().chunks(PIECE) {
                gone(receiver.content(number, piece))?;
            }
            gone(receiver.content(number, &[]))?;
        }
        Ok(())
    }
}

fn gone(flow: ControlFlow<()>) -> Result<(), SourceError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(SourceError::Cancelled),
    }
}

/// Looks at names and targets, and at sizes for as long as it matters.
struct Names<'a> {
    are_text: bool,
    size: ContextSummary,
    from: Large,
    stop: &'a CancellationToken,
}

impl Names<'_> {
    fn is_large(&self) -> bool {
        self.size.files >= self.from.files || self.size.bytes >= self.from.bytes
    }
}

impl<'p> Visitor<'p> for Names<'_> {
    fn looked(&mut self) -> ControlFlow<()> {
        match self.stop.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn visit(&mut self, path: &[u8], item: Item<'p>) -> Result<(), SourceError> {
        self.are_text &= str::from_utf8(path).is_ok();
        self.size.files += 1;
        match item {
            Item::Link(git, id) => self.are_text &= str::from_utf8(git.link(id, path)?.content()).is_ok(),
            Item::File { git, id, .. } if !self.is_large() => self.size.bytes += git.size(id)?,
            Item::File { .. } | Item::Folder => {}
        }
        Ok(())
    }
}

struct Listing<'a, 'p> {
    plan: &'p Plan,
    receiver: &'a mut dyn Receiver,
    /// By the number of their entry; `None` for what has no content.
    files: Vec<Option<Listed<'p>>>,
    /// Where the last file lies, with a slash at its end: many share it.
    folder: Rc<[u8]>,
    summary: ContextSummary,
}

struct Listed<'p> {
    git: Git<'p>,
    id: Oid,
    folder: Rc<[u8]>,
    name: Box<[u8]>,
}

impl Listed<'_> {
    fn path(&self) -> Vec<u8> {
        [&*self.folder, &*self.name].concat()
    }
}

impl<'p> Visitor<'p> for Listing<'_, 'p> {
    fn looked(&mut self) -> ControlFlow<()> {
        self.receiver.waits()
    }

    fn visit(&mut self, path: &[u8], item: Item<'p>) -> Result<(), SourceError> {
        let config = &self.plan.source.config;
        self.summary.count(config)?;
        let (kind, file) = match item {
            Item::Folder => (EntryKind::Folder, None),
            Item::Link(git, id) => (EntryKind::Link { target: shown(git.link(id, path)?.content()) }, None),
            Item::File { git, id, executable } => {
                let size = git.size(id)?;
                self.summary.add(size, config)?;
                let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                if *self.folder != path[..name] {
                    self.folder = path[..name].into();
                }
                let (folder, name) = (self.folder.clone(), path[name..].into());
                (EntryKind::File { size, executable }, Some(Listed { git, id, folder, name }))
            }
        };
        self.files.push(file);
        // Text, as was looked before.
        gone(self.receiver.entry(ContextEntry { path: shown(path), kind, time: self.plan.source.time }))
    }
}

/// As little of the context as is sure to have what is wanted. A name that leads through a link, or a wildcard that
/// may mean one, may need anything.
fn part(plan: &Plan, wanted: &Wanted, receiver: &mut dyn Receiver) -> Result<Part, SourceError> {
    let paths = match wanted {
        Wanted::All => return Ok(Part::All),
        Wanted::Dockerfile => return Ok(Part::Of(plan.always.iter().cloned().collect())),
        Wanted::Paths(paths) => paths,
    };
    let (mut found, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for path in paths {
        let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        let literal: Vec<&str> = names.iter().copied().take_while(|name| !has_wildcard(name)).collect();
        if literal.is_empty() || names.contains(&"..") || is_through_link(plan, &literal)? {
            return Ok(Part::All);
        }
        let literal_path = literal.join("/").into_bytes();
        if literal.len() < names.len() {
            folders.insert(literal_path.clone());
        }
        found.insert(literal_path);
    }
    match folders.is_empty() || !has_links(plan, folders, receiver)? {
        true => Ok(Part::Of(found)),
        false => Ok(Part::All),
    }
}

fn has_wildcard(name: &str) -> bool {
    name.contains(['*', '?', '[', '\\', '!'])
}

/// Whether a path of the context is a link, or lies behind one.
fn is_through_link(plan: &Plan, names: &[&str]) -> Result<bool, SourceError> {
    let (top, mut node) = plan.root()?;
    let mut here = String::new();
    for name in names {
        if !here.is_empty() {
            here.push('/');
        }
        here.push_str(name);
        let tree = node.tree()?;
        let Some((id, kind)) = tree.get_name(name).map(|entry| (entry.id(), kind(&entry))) else {
            return Ok(false);
        };
        match kind {
            Entry::Link => return Ok(true),
            Entry::Folder => node.id = id,
            Entry::Submodule => match plan.repositories.submodule(&from_top(top, here.as_bytes())) {
                Ok(Some(module)) => node = module,
                // One that is ignored has not been fetched; whether that is a fault, the walk finds out.
                Ok(None) | Err(_) => return Ok(false),
            },
            Entry::File { .. } | Entry::Unknown => return Ok(false),
        }
    }
    Ok(false)
}

fn has_links(
    plan: &Plan,
    folders: BTreeSet<Vec<u8>>,
    receiver: &mut dyn Receiver,
) -> Result<bool, SourceError> {
    let mut links = Links { found: false, receiver };
    walk(plan, &Part::Of(folders), &mut links)?;
    Ok(links.found)
}

struct Links<'a> {
    found: bool,
    receiver: &'a mut dyn Receiver,
}

impl<'p> Visitor<'p> for Links<'_> {
    fn looked(&mut self) -> ControlFlow<()> {
        self.receiver.waits()
    }

    fn visit(&mut self, _: &[u8], item: Item<'p>) -> Result<(), SourceError> {
        self.found |= matches!(item, Item::Link(..));
        Ok(())
    }
}
