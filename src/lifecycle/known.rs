//! What is known of one record, and the state of its file: [`Known`].

use std::time::Duration;

use super::Record;

/// What is known of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// It counts.
    Live(Live),
    /// The time of its key is up, and its file, which says this, cannot be deleted. As long as that does not
    /// change, the key counts as gone.
    Abandoned(Record),
}

/// A record that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) record: Record,
    pub(super) file: File,
    /// When it was last tried in vain to delete the file, by a monotonic clock.
    pub(super) undeletable_since: Option<Duration>,
}

/// What the file of a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum File {
    /// What is known.
    Same,
    /// This, when something else was decided that could not be written; `None` if there was no file, or
    /// somebody has deleted it. What is known is served all the same, until the file says something else
    /// again: that is newer.
    Behind(Option<Box<Record>>),
}

impl Known {
    /// A record as its file has it.
    pub(super) fn found(record: Record) -> Self {
        Self::Live(Live { record, file: File::Same, undeletable_since: None })
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Abandoned(_) => None,
        }
    }

    /// The same record once `record` was decided, which its file does not say yet.
    pub(super) fn decided(self, mut record: Record) -> Self {
        let (file, undeletable_since) = match self {
            Self::Live(Live { record: before, file, undeletable_since }) => {
                let file =
                    if file == File::Same { File::Behind(Some(Box::new(before))) } else { file };
                (file, undeletable_since)
            }
            // The file is still there, and is the one to replace.
            Self::Abandoned(before) => {
                record.created_at = before.created_at;
                (File::Behind(Some(Box::new(before))), None)
            }
        };
        Self::Live(Live { record, file, undeletable_since })
    }

    /// What becomes of it without its key: nothing if no file has it.
    pub(super) fn abandoned(self) -> Option<Self> {
        match self {
            Self::Live(Live { record, file: File::Same, .. }) => Some(Self::Abandoned(record)),
            Self::Live(Live { file: File::Behind(file), .. }) => {
                file.map(|file| Self::Abandoned(*file))
            }
            abandoned @ Self::Abandoned(_) => Some(abandoned),
        }
    }

    /// Its file is gone. Returns whether anything is left of it.
    pub(super) fn is_kept_without_file(&mut self) -> bool {
        match self {
            Self::Live(live) => {
                live.file = File::Behind(None);
                true
            }
            Self::Abandoned(_) => false,
        }
    }

    /// Takes in what the file says now, which is the newest word unless that would break a promise. Returns
    /// what was known before if its state was another.
    pub(super) fn observe(&mut self, found: &Record) -> Option<Record> {
        let live = match self {
            Self::Live(live) => live,
            Self::Abandoned(record) => {
                if record != found {
                    *self = Self::found(found.clone());
                }
                return None;
            }
        };
        if matches!(&live.file, File::Behind(Some(before)) if **before == *found) {
            // Still what it was when this was decided.
            return None;
        }
        let kept = if live.record == *found {
            found.clone()
        } else {
            live.record.keeping_promises_of(found)
        };
        live.file =
            if kept == *found { File::Same } else { File::Behind(Some(Box::new(found.clone()))) };
        let before = std::mem::replace(&mut live.record, kept);
        (before.state != live.record.state).then_some(before)
    }
}
