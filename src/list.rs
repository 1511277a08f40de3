//! `list`: every container of a state directory, as a table or as JSON. One that is half made or not ours to read does
//! not keep the others from being listed.

use crate::cli::ListArgs;
use crate::error::{Context, Error, Result};
use crate::state::{Container, Description, Root, describe};
use crate::{delete, log};
use nix::errno::Errno;
use nix::unistd::{Uid, User};
use regex::Regex;
use std::io::Write;
use std::path::Path;

/// `corten list`. A state directory that the caller names has to exist, as with runc; the usual one comes to be with the
/// first container.
pub fn list(root: &Path, named: bool, args: &ListArgs) -> Result<()> {
    if named && Root::open(root)?.is_none() {
        return Err(Error::from(Errno::ENOENT).context(format!("open {}", root.display())));
    }
    if !args.quiet && !matches!(args.format.as_str(), "table" | "json") {
        return Err(Error::new("invalid format option"));
    }
    let descriptions = descriptions(root)?;
    let text = if args.quiet {
        descriptions.iter().map(|one| format!("{}\n", one.record.id)).collect()
    } else if args.format == "json" {
        json(&descriptions)?
    } else {
        table(&descriptions)
    };
    std::io::stdout().write_all(text.as_bytes()).context(|| "write to stdout")
}

fn descriptions(root: &Path) -> Result<Vec<Description>> {
    let Some(opened) = Root::open(root)? else {
        return Ok(Vec::new());
    };
    let mut descriptions = Vec::new();
    for id in opened.ids()? {
        let described = Container::find(root, &id).and_then(|container| match container.read_record()? {
            Some(_) => describe(&container).map(Some),
            // It is being made or removed right now, or that was interrupted.
            None if container.is_locked() => Ok(None),
            None => container.record().map(|_| None),
        });
        match described {
            Ok(Some(description)) => descriptions.push(description),
            Ok(None) => {}
            Err(error) if delete::is_missing(&error) => {}
            Err(error) => log::warning(&format!("load container {id}: {error}")),
        }
    }
    Ok(descriptions)
}

/// Does something to each container whose id matches a POSIX extended regular expression, anywhere in it as crun has it.
/// One that fails does not keep the others from their turn.
pub fn each_matching(root: &Path, pattern: &str, action: impl Fn(&str) -> Result<()>) -> Result<()> {
    let pattern = Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        Error::new(format!("invalid regular expression {pattern:?}: {why}"))
    })?;
    let ids = Root::open(root)?.map_or(Ok(Vec::new()), |root| root.ids())?;
    let matching: Vec<&String> = ids.iter().filter(|id| pattern.is_match(id)).collect();
    let failures = matching.iter().filter(|id| match action(id) {
        Ok(()) => false,
        Err(error) => {
            log::warning(&format!("{id}: {error}"));
            true
        }
    });
    match failures.count() {
        0 => Ok(()),
        count => Err(Error::new(format!("failed for {count} of {} containers", matching.len()))),
    }
}

fn owner(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("#{uid}"),
    }
}

fn json(descriptions: &[Description]) -> Result<String> {
    if descriptions.is_empty() {
        return Ok("null\n".to_string());
    }
    let objects = descriptions.iter().map(|one| one.to_json(&owner(one.record.owner), false));
    Ok(format!("[{}]\n", objects.collect::<Result<Vec<_>>>()?.join(",")))
}

/// Columns as Go's tabwriter makes them: at least 12 wide, three spaces apart, the last one as it is.
fn table(descriptions: &[Description]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_string);
    let rows = descriptions.iter().map(|one| {
        [
            one.record.id.clone(),
            one.pid.to_string(),
            one.status.to_string(),
            one.record.bundle.display().to_string(),
            one.record.created.clone(),
            owner(one.record.owner),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate().take(5) {
            let longest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
            let width = (longest.unwrap_or(0) + 3).max(12);
            text.push_str(&format!("{cell:width$}"));
        }
        text.push_str(&row[5]);
        text.push('\n');
    }
    text
}
