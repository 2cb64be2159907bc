//! Changes since the state file was written: one line of JSON a save, appended.
//!
//! A journal belongs to the state file that names it by number. If the process ended while it wrote a line, that line
//! has no end and is left out. Each process begins with a new state file, and nothing is renamed or overwritten. Each
//! line has a checksum: a damaged line is left out, and its keys keep the texts that they had before.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Checksum, SavedEntry};

const STEM: &str = "changes-";

/// The changes of one save.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Line {
    /// The documents root's revision.
    pub(super) revision: i64,
    /// Texts that serve now.
    pub(super) put: Vec<SavedEntry>,
    /// Keys of which nothing serves any more.
    pub(super) gone: Vec<String>,
    /// Checksum of the other fields. Older versions wrote none.
    pub(super) sum: Option<u32>,
}

impl Line {
    /// With its checksum.
    pub(super) fn sealed(self) -> Self {
        let sum = Some(self.checksum());
        Self { sum, ..self }
    }

    fn checksum(&self) -> u32 {
        let mut sum = Checksum::default();
        sum.number(self.revision);
        for entry in &self.put {
            sum.number(entry.checksum().into());
        }
        for key in &self.gone {
            sum.text(key);
        }
        sum.end()
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Made with the first line.
    file: Option<fs::File>,
    /// Its bytes.
    pub(super) len: usize,
}

impl Journal {
    /// Begin the journal of a new state file; older journals are deleted.
    pub(super) fn begin(folder: &Path, number: u64) -> io::Result<Self> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(STEM) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            path: place(folder, number),
            file: None,
            len: 0,
        })
    }

    /// The path of the journal.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Append a line, and have it on the disk.
    pub(super) fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&self.path)?),
        };
        file.write_all(&text)?;
        file.sync_data()?;
        self.len += text.len();
        Ok(())
    }
}

/// The whole lines of a journal, in order, and the number of damaged ones.
pub(super) fn read(folder: &Path, number: u64) -> io::Result<(Vec<Line>, usize)> {
    let content = match fs::read(place(folder, number)) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(error),
    };
    let ended = content
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    let (mut lines, mut damaged) = (Vec::new(), 0);
    for line in ended {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) if line.sum.is_none_or(|sum| sum == line.checksum()) => lines.push(line),
            _ => damaged += 1,
        }
    }
    Ok((lines, damaged))
}

/// The number of the journal of the next state file: none that was used.
pub(super) fn next_number(folder: &Path) -> io::Result<u64> {
    let mut next = 1;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let number = name
            .strip_prefix(STEM)
            .and_then(|rest| rest.strip_suffix(".jsonl")?.parse::<u64>().ok());
        next = number.map_or(next, |number| next.max(number + 1));
    }
    Ok(next)
}

fn place(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{STEM}{number}.jsonl"))
}

/// A file of its owner's alone, whose name is on the disk.
#[cfg(unix)]
fn create(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::OpenOptions::new()
        .create_new(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    if let Some(folder) = path.parent() {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(file)
}
