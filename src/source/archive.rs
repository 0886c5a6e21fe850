//! A git tree as a tar: no checkout, nothing but the objects and the rules. The same commit, root and
//! Dockerfile give the same bytes: entries in git's order, owner 0:0, the commit's time, modes 0644,
//! 0755 and 0777. GNU format (tar(5)), whose long-name entries take any bytes.

use std::collections::HashSet;
use std::io::{self, Write};

use git2::{Oid, Tree};
use tar::{EntryType, Header};

use super::context::ContextSummary;
use super::error::SourceError;
use super::ignore::Matched;
use super::tree::{Entry, Git, MAX_LINK, Node, Plan, from_top, kind};

/// The longest path of an entry, in bytes: Linux' PATH_MAX.
const MAX_PATH: usize = 4096;
/// How many folders are open at once, one in the other, and how many entries they may have together: each is in memory
/// as a whole.
const MAX_DEPTH: usize = 256;
const MAX_OPEN_ENTRIES: usize = 2_000_000;
/// Entries that are looked at for each one that may be sent. Trees can share their subtrees, so that
/// a small repository holds more paths than anybody can walk; those that are ignored count here.
const LOOKED_AT_FOR_EACH: u64 = 10;
/// How many LFS pointers are named, and the longest that one may be, in bytes.
const MAX_POINTERS: usize = 10;
const MAX_POINTER: u64 = 1024;
/// The size of a tar block.
const BLOCK: usize = 512;
/// The length of a name in a header.
const NAME: usize = 100;

/// Writes the context. An error of `out` means that nobody reads any more.
pub(super) fn write(plan: &Plan, out: &mut dyn Write) -> Result<ContextSummary, SourceError> {
    let mut writer = Writer {
        out,
        plan,
        path: Vec::new(),
        looked_at: 0,
        pointers: Vec::new(),
        summary: ContextSummary::default(),
    };
    writer.walk()?;
    if !writer.pointers.is_empty() {
        return Err(writer.lfs_pointers());
    }
    // Two blocks of zeros end an archive.
    writer.out.write_all(&[0; 2 * BLOCK]).map_err(gone)?;
    Ok(writer.summary)
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    plan: &'a Plan,
    /// The path of the entry at hand, relative to the context.
    path: Vec<u8>,
    looked_at: u64,
    /// Files that LFS keeps elsewhere. After the first nothing is written: only others are looked for.
    pointers: Vec<String>,
    summary: ContextSummary,
}

/// A folder that is being walked.
struct Folder<'a> {
    /// The repository that it lies in.
    git: Git<'a>,
    tree: Tree<'a>,
    /// The next of its entries.
    next: usize,
    /// Those before it. A file and a folder of one name need not stand together.
    names: HashSet<Vec<u8>>,
    /// The length of its path.
    path: usize,
    matched: Matched,
    /// An ignored folder is sent only before the first thing in it that is not.
    sent: bool,
}

impl<'a> Writer<'a> {
    fn walk(&mut self) -> Result<(), SourceError> {
        let (top, root) = self.plan.root()?;
        let (git, tree) = (root.git, root.tree()?);
        let mut folders = vec![Folder {
            git,
            tree,
            next: 0,
            names: HashSet::new(),
            path: 0,
            matched: Matched::default(),
            sent: true,
        }];
        while let Some(folder) = folders.last_mut() {
            let Some((id, kind)) = self.next_of(folder)? else {
                folders.pop();
                continue;
            };
            self.look()?;
            let path = shown(&self.path);
            let (ignored, matched) = self.plan.rules.ignores(&path, &folder.matched);
            let sent = !ignored || self.is_needed(&self.path);
            let git = folder.git;
            let mut is_empty = false;
            if matches!(kind, Entry::Folder | Entry::Submodule) {
                if !sent && !self.leads_to_needed() && !self.plan.rules.reaches_into(&path) {
                    continue;
                }
                let node = match kind {
                    Entry::Submodule => self.plan.repositories.submodule(&from_top(top, &self.path))?,
                    _ => Some(Node { git, id }),
                };
                match node {
                    Some(_) if folders.len() >= MAX_DEPTH => {
                        let reason = "its folders are nested more than 256 deep";
                        return Err(SourceError::BadName { path, reason });
                    }
                    Some(_)
                        if folders.iter().map(|open| open.tree.len()).sum::<usize>() > MAX_OPEN_ENTRIES =>
                    {
                        let reason = "the folders that it lies in have more than 2,000,000 entries together";
                        return Err(SourceError::BadName { path, reason });
                    }
                    Some(node) => {
                        let (git, tree) = (node.git, node.tree()?);
                        folders.push(Folder {
                            git,
                            tree,
                            next: 0,
                            names: HashSet::new(),
                            path: self.path.len(),
                            matched,
                            sent: false,
                        });
                    }
                    None => is_empty = true,
                }
            }
            if !sent {
                continue;
            }
            for folder in folders.iter_mut().filter(|folder| !folder.sent) {
                folder.sent = true;
                self.folder(folder.path)?;
            }
            match kind {
                // As in a checkout: a folder with nothing in it.
                Entry::Submodule if is_empty => self.folder(self.path.len())?,
                Entry::Folder | Entry::Submodule => {}
                Entry::File { executable } => self.file(git, id, &path, executable)?,
                Entry::Link => self.link(git, id, &path)?,
                Entry::Unknown => {
                    return Err(SourceError::BadName { path, reason: "its mode is none that git writes" });
                }
            }
        }
        Ok(())
    }

    /// Steps to the next entry of a folder.
    fn next_of(&mut self, folder: &mut Folder<'_>) -> Result<Option<(Oid, Entry)>, SourceError> {
        let Some(entry) = folder.tree.get(folder.next) else { return Ok(None) };
        folder.next += 1;
        self.path.truncate(folder.path);
        self.push_name(entry.name_bytes())?;
        // Whoever unpacks it takes the last, and who looks it up takes any: they would not speak of one file.
        if !folder.names.insert(entry.name_bytes().to_vec()) {
            let reason = "it stands twice in its folder, which git does not write";
            return Err(SourceError::BadName { path: shown(&self.path), reason });
        }
        Ok(Some((entry.id(), kind(&entry))))
    }

    /// Whether the path is sent whatever the rules say.
    fn is_needed(&self, path: &[u8]) -> bool {
        self.plan.always.iter().any(|needed| needed == path)
    }

    fn leads_to_needed(&self) -> bool {
        let below =
            |needed: &Vec<u8>| needed.strip_prefix(self.path.as_slice()).is_some_and(|r| r.starts_with(b"/"));
        self.plan.always.iter().any(below)
    }

    fn push_name(&mut self, name: &[u8]) -> Result<(), SourceError> {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let reason = match name {
            b"" => "a name is empty",
            b"." | b".." => "it stands for another folder",
            _ if name.eq_ignore_ascii_case(b".git") => "git keeps its own files there",
            _ if name.contains(&b'/') || name.contains(&0) => "a name contains '/' or NUL",
            _ if self.path.len() > MAX_PATH => "the path is longer than 4096 bytes",
            _ => return Ok(()),
        };
        Err(SourceError::BadName { path: shown(&self.path).chars().take(MAX_PATH).collect(), reason })
    }

    fn look(&mut self) -> Result<(), SourceError> {
        self.looked_at += 1;
        // Nothing is written while ignored folders are walked: this notices that nobody reads any more.
        // Not `write_all`, which does not ask the writer when there is nothing to write.
        let _nothing = self.out.write(&[]).map_err(gone)?;
        let limit = self.plan.source.config.max_files;
        match self.looked_at > limit.saturating_mul(LOOKED_AT_FOR_EACH) {
            true => Err(too_many_files("the repository, ignored ones included, has too many files", limit)),
            false => Ok(()),
        }
    }

    fn folder(&mut self, length: usize) -> Result<(), SourceError> {
        let mut path = self.path[..length].to_vec();
        path.push(b'/');
        self.entry(&path, EntryType::Directory, 0o755, &[], &[])
    }

    fn link(&mut self, git: Git<'_>, id: Oid, path: &str) -> Result<(), SourceError> {
        let target = git.link_target(id, path)?;
        let reason = match target.content() {
            [] => "it is a symbolic link without a target",
            target if target.contains(&0) => "the target of the symbolic link contains NUL",
            target if target.len() >= MAX_LINK => "the target of the symbolic link is too long",
            target => {
                let path = self.path.clone();
                return self.entry(&path, EntryType::Symlink, 0o777, target, &[]);
            }
        };
        Err(SourceError::BadName { path: path.to_owned(), reason })
    }

    fn file(&mut self, git: Git<'_>, id: Oid, path: &str, executable: bool) -> Result<(), SourceError> {
        let config = &self.plan.source.config;
        if !self.pointers.is_empty() && git.size(id)? > MAX_POINTER {
            return Ok(());
        }
        let blob = git.blob(id, path, config.max_file, Some("max_file"))?;
        if is_lfs_pointer(blob.content()) {
            self.pointers.push(path.to_owned());
            return match self.pointers.len() {
                MAX_POINTERS => Err(self.lfs_pointers()),
                _ => Ok(()),
            };
        }
        self.summary.bytes += blob.size() as u64;
        if self.summary.bytes > config.max_context.0 {
            return Err(SourceError::TooLarge {
                what: "the build context".to_owned(),
                limit: config.max_context,
                key: Some("max_context"),
                remedy: "; list in .dockerignore what the build does not need",
            });
        }
        let mode = if executable { 0o755 } else { 0o644 };
        let path = self.path.clone();
        self.entry(&path, EntryType::Regular, mode, &[], blob.content())
    }

    fn entry(
        &mut self,
        path: &[u8],
        kind: EntryType,
        mode: u32,
        link: &[u8],
        content: &[u8],
    ) -> Result<(), SourceError> {
        if !self.pointers.is_empty() {
            return Ok(());
        }
        let limit = self.plan.source.config.max_files;
        self.summary.files += 1;
        if self.summary.files > limit {
            return Err(too_many_files("the build context has too many files and folders", limit));
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.plan.source.time);
        header.set_size(content.len() as u64);
        self.put(header, path, link, content).map_err(gone)
    }

    fn lfs_pointers(&mut self) -> SourceError {
        SourceError::LfsPointers { paths: std::mem::take(&mut self.pointers) }
    }

    /// One entry, with entries of its long names before it.
    fn put(&mut self, mut header: Header, path: &[u8], link: &[u8], content: &[u8]) -> io::Result<()> {
        for (name, kind) in [(path, EntryType::GNULongName), (link, EntryType::GNULongLink)] {
            if name.len() > NAME {
                let mut long = Header::new_gnu();
                long.set_entry_type(kind);
                long.set_mode(0o644);
                let content = [name, &[0]].concat();
                long.set_size(content.len() as u64);
                self.put(long, b"././@LongLink", &[], &content)?;
            }
        }
        header.set_uid(0);
        header.set_gid(0);
        let fields = header.as_old_mut();
        fill(&mut fields.name, path);
        fill(&mut fields.linkname, link);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(content)?;
        let padding = content.len().next_multiple_of(BLOCK) - content.len();
        self.out.write_all(&[0; BLOCK][..padding])
    }
}

/// As much of a name as fits: the rest stands in an entry of its own.
fn fill(field: &mut [u8; NAME], name: &[u8]) {
    let length = name.len().min(NAME);
    field[..length].copy_from_slice(&name[..length]);
}

fn gone(_: io::Error) -> SourceError {
    SourceError::Cancelled
}

fn too_many_files(what: &str, limit: u64) -> SourceError {
    SourceError::TooMany {
        what: what.to_owned(),
        limit,
        key: "max_files",
        remedy: "; list in .dockerignore what the build does not need",
    }
}

/// A path for the rules and for people. Bytes that are not UTF-8 match no literal, only wildcards.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Whether a file is a pointer to one kept elsewhere, by the specification of Git LFS: its first line.
fn is_lfs_pointer(content: &[u8]) -> bool {
    content.len() as u64 <= MAX_POINTER
        && content.starts_with(b"version https://git-lfs.github.com/spec/v1\n")
}
