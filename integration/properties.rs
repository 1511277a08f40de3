//! The properties of the specification, each with its tests, and what other runtimes make of these tests.
//!
//! `properties.tsv` is written by hand; `integration --properties` prints docs/properties.md from it, from
//! `known-differences.tsv` and from `not-tried.tsv`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::{self, Case, Outcome, differences_of};
use crate::{ensure, tests};

tests![
    every_property_has_tests_that_exist,
    the_lists_of_differences_name_tests_that_exist,
    the_page_of_properties_is_up_to_date,
];

const PROPERTIES: &str = include_str!("properties.tsv");

/// The runtimes, with the versions, that known-differences.tsv was written from.
pub const PEERS: [(&str, &str); 3] = [("runc", "1.3.6+ds1"), ("runc", "1.1.5+ds1"), ("crun", "1.28")];

/// The lines of a table that are no comments.
pub fn lines(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

/// The names of all tests of the suite.
pub fn all_tests() -> BTreeSet<String> {
    harness::names(crate::MODULES).collect()
}

/// A version as people know it: without what Debian adds.
pub fn short(version: &str) -> &str {
    version.split('+').next().unwrap_or(version)
}

/// docs/properties.md
pub fn page() -> String {
    let mut page = String::from(
        "# The properties of the specification\n\n\
         Every property of the runtime specification 1.3 that binds a runtime on Linux, and the tests of `integration/` that show it\n\
         with corten. The other columns say what these same tests find of other runtimes: *yes*, or in what they differ, as\n\
         `integration/known-differences.tsv` has it (a run on that runtime fails when the list is wrong, either way). Where a\n\
         difference is in the words of a message only, it is listed, too.\n\n\
         This page is printed by `cargo test --test integration -- --properties` from `integration/properties.tsv`.\n",
    );
    for columns in lines(PROPERTIES) {
        match columns[..] {
            [title] => {
                page += &format!("\n## {title}\n\n| property | specification | tests of corten |");
                PEERS.iter().for_each(|(name, version)| page += &format!(" {name} {} |", short(version)));
                page += "\n|---|---|---|---|---|---|\n";
            }
            [property, spec, tests] => {
                let names: Vec<String> = tests.split(' ').map(|test| format!("`{test}`")).collect();
                page += &format!("| {property} | {spec} | {} |", names.join(" "));
                PEERS.iter().for_each(|(name, version)| page += &format!(" {} |", verdict(name, version, tests)));
                page.push('\n');
            }
            _ => page += &format!("not a line of properties.tsv: {columns:?}\n"),
        }
    }
    page
}

/// What a runtime makes of some tests.
fn verdict(name: &str, version: &str, tests: &str) -> String {
    let (mut reasons, mut failing, count) = (Vec::new(), 0, tests.split(' ').count());
    for test in tests.split(' ') {
        let found: Vec<String> = differences_of(name, version, test)
            .map(|(setups, reason)| setups.map_or(reason.to_owned(), |setups| format!("{reason} ({setups})")))
            .collect();
        failing += usize::from(!found.is_empty());
        for reason in found {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    match failing {
        0 => "yes".to_owned(),
        _ => format!("differs in {failing} of {count}: {}", reasons.join("; ")),
    }
}

fn every_property_has_tests_that_exist(_: &Case) -> Outcome {
    let (all, mut count) = (all_tests(), 0);
    for columns in lines(PROPERTIES) {
        let [property, _, tests] = columns[..] else {
            ensure!(columns.len() == 1, "not a line of properties.tsv: {columns:?}");
            continue;
        };
        count += 1;
        for test in tests.split(' ') {
            ensure!(all.contains(test), "{property}: there is no test {test:?}");
        }
    }
    ensure!(count > 90, "there are only {count} properties");
    Ok(())
}

fn the_lists_of_differences_name_tests_that_exist(_: &Case) -> Outcome {
    let all = all_tests();
    for table in [harness::KNOWN_DIFFERENCES, harness::NOT_TRIED, harness::NOT_HERE] {
        for columns in lines(table) {
            let [who, test, reason] = columns[..] else { return Err(format!("not three columns: {columns:?}").into()) };
            ensure!(all.contains(test), "{who}: there is no test {test:?}");
            ensure!(!reason.is_empty(), "{who}: no reason for {test}");
        }
    }
    Ok(())
}

fn the_page_of_properties_is_up_to_date(_: &Case) -> Outcome {
    is_up_to_date("docs/properties.md", &page(), "--properties")
}

/// A page of docs/ has to be what an option prints.
pub fn is_up_to_date(file: &str, page: &str, option: &str) -> Outcome {
    let there = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))?;
    let line = there.lines().zip(page.lines()).position(|(old, new)| old != new).unwrap_or(0);
    ensure!(there == page, "{file} is not what `integration {option}` prints: line {}", line + 1);
    Ok(())
}
