//! A git tree as a tar: no checkout, nothing but the objects and the rules. The same commit, root and
//! Dockerfile give the same bytes: entries by their paths, owner 0:0, the commit's time, modes 0644,
//! 0755 and 0777. GNU format (tar(5)), whose long-name entries take any bytes.

use std::io::{self, Write};
use std::ops::ControlFlow;

use git2::Oid;
use tar::{EntryType, Header};

use super::content::is_lfs_pointer;
use super::context::ContextSummary;
use super::error::SourceError;
use super::tree::{Git, Plan};
use super::walk::{Item, Part, Visitor, shown, walk};

/// How many LFS pointers are named.
const MAX_POINTERS: usize = 10;
/// The size of a tar block.
const BLOCK: usize = 512;
/// The length of a name in a header.
const NAME: usize = 100;

/// Writes the context. An error of `out` means that nobody reads any more.
pub(super) fn write(plan: &Plan, out: &mut dyn Write) -> Result<ContextSummary, SourceError> {
    let mut writer = Writer { out, plan, pointers: Vec::new(), summary: ContextSummary::default() };
    walk(plan, &Part::All, &mut writer)?;
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
    /// Files that LFS keeps elsewhere. After the first nothing is written: only others are looked for.
    pointers: Vec<String>,
    summary: ContextSummary,
}

impl<'p> Visitor<'p> for Writer<'_> {
    fn looked(&mut self) -> ControlFlow<()> {
        // Nothing is written while ignored folders are walked: this notices that nobody reads any more.
        // Not `write_all`, which does not ask the writer when there is nothing to write.
        match self.out.write(&[]) {
            Ok(_nothing) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn visit(&mut self, path: &[u8], item: Item<'p>) -> Result<(), SourceError> {
        match item {
            Item::Folder => self.entry(&[path, b"/"].concat(), EntryType::Directory, 0o755, &[], &[]),
            Item::Link(git, id) => {
                let target = git.link(id, path)?;
                self.entry(path, EntryType::Symlink, 0o777, target.content(), &[])
            }
            Item::File { git, id, executable } => self.file(git, id, path, executable),
        }
    }
}

impl Writer<'_> {
    fn file(&mut self, git: Git<'_>, id: Oid, path: &[u8], executable: bool) -> Result<(), SourceError> {
        if !self.pointers.is_empty() && !git.may_be_lfs_pointer(id)? {
            return Ok(());
        }
        let blob = git.file(id, path)?;
        if is_lfs_pointer(blob.content()) {
            self.pointers.push(shown(path));
            return match self.pointers.len() {
                MAX_POINTERS => Err(self.lfs_pointers()),
                _ => Ok(()),
            };
        }
        self.summary.add(blob.size() as u64, &self.plan.source.config)?;
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(path, EntryType::Regular, mode, &[], blob.content())
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
        self.summary.count(&self.plan.source.config)?;
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
