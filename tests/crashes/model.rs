//! The states in which a power cut can leave the disk.
//!
//! The model is as weak as POSIX lets a file system be (Pillai et al., "All File Systems Are Not
//! Created Equal", OSDI 2014): of the changes to a directory since its last sync any subset may be
//! on the disk, each whole; of a file's content since its last sync nothing, a part, zeros or all.
//! The sync of a file says nothing of its name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use crate::disk::{Entries, Image, KEYS, Op, ROOT};
use crate::form::short_or_long;

/// Calls `visit` with each state in which a power cut after these operations can leave the disk.
pub fn crash(before: &Image, log: &[Op], visit: &mut impl FnMut(Image)) {
    let (mut durable, files) = before.mount();
    let mut files: Vec<_> = files.into_iter().map(|bytes| (bytes, true)).collect();
    let mut pending: [Vec<&Op>; 2] = Default::default();
    for op in log {
        match op {
            Op::MakeKeys => pending[ROOT].push(op),
            Op::Create { dir, file, .. } => {
                files.resize(files.len().max(file + 1), (Vec::new(), true));
                pending[*dir].push(op);
            }
            Op::Write { file, bytes } => {
                files[*file].0.extend(bytes);
                files[*file].1 = false;
            }
            Op::Overwrite { file, bytes } => files[*file] = (bytes.clone(), false),
            Op::SyncFile(file) => files[*file].1 = true,
            Op::Link { dir, .. }
            | Op::Rename { dir, .. }
            | Op::Exchange { dir, .. }
            | Op::Unlink { dir, .. } => pending[*dir].push(op),
            Op::SyncDir(dir) => pending[*dir].drain(..).for_each(|op| op.apply(&mut durable)),
        }
    }
    for in_root in 0..1_u32 << pending[ROOT].len() {
        let mut root = durable.clone();
        apply_some(&pending[ROOT], in_root, &mut root);
        for in_keys in 0..1_u32 << pending[KEYS].len() {
            let mut dirs = root.clone();
            apply_some(&pending[KEYS], in_keys, &mut dirs);
            let named: BTreeSet<_> =
                dirs.iter().flatten().flat_map(BTreeMap::values).copied().collect();
            let torn: Vec<_> = named.into_iter().filter(|file| !files[*file].1).collect();
            tear(&torn, &mut files, &mut |files| {
                let fill = |entries: &Entries| {
                    let fill =
                        |(name, file): (&OsString, &usize)| (name.clone(), files[*file].0.clone());
                    entries.iter().map(fill).collect()
                };
                visit(Image(dirs.each_ref().map(|dir| dir.as_ref().map(fill))));
            });
        }
    }
}

fn apply_some(ops: &[&Op], chosen: u32, dirs: &mut [Option<Entries>; 2]) {
    for (index, op) in ops.iter().enumerate() {
        if chosen >> index & 1 == 1 {
            op.apply(dirs);
        }
    }
}

/// Every combination of what can be left of the files `torn`.
fn tear(
    torn: &[usize],
    files: &mut Vec<(Vec<u8>, bool)>,
    visit: &mut impl FnMut(&[(Vec<u8>, bool)]),
) {
    let Some((file, rest)) = torn.split_first() else { return visit(files) };
    let whole = files[*file].0.clone();
    let len = whole.len();
    let step = short_or_long(len.div_ceil(2).max(1), 8);
    let left: BTreeSet<_> = (0..len)
        .step_by(step)
        .chain([1, len.saturating_sub(2), len])
        .map(|len| whole[..len.min(whole.len())].to_vec())
        .chain([vec![0; len]])
        .collect();
    for bytes in left {
        files[*file].0 = bytes;
        tear(rest, files, visit);
    }
    files[*file].0 = whole;
}
