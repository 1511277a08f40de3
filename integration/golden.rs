//! corten's command line beside runc's: each row of `golden.tsv` is run on both, and what comes out has to be alike.
//!
//! A row has a name, a situation, the commands and flags that it needs, what is compared in a way of its own, and the
//! arguments. A situation that ends in `!` is made for this row alone, and the container's status afterwards is compared,
//! too. Always compared are the status, stdout, stderr, the line "Incorrect Usage" on either, and what is in a log and a
//! pid file that the arguments name, each after `Place::plain` has taken out what is different in any two runs: paths, ids,
//! times, pids, the program's name, and from a help all but whose help it is. The fourth column changes that:
//!
//! | word | means |
//! |---|---|
//! | `out~TEXT`, `err~TEXT` | both have this text on stdout or stderr, and the rest may differ (callers do not read it) |
//! | `json`, `json:keys` | stdout is the same JSON in the same layout, numbers aside; or only has the same keys in order |
//! | `table` | stdout is the same table, numbers and times aside, with the columns at the same places |
//! | `ps` | stdout is a table of ps with the same header and as many processes |
//! | `debug` | the log has lines of the level debug, and but for these is the same |
//! | `file=PATH` | this JSON file is the same afterwards |
//! | `tty` | the caller has a terminal |
//! | `cwd=PATH`, `stdin=PATH` | the caller's working directory and what he has on stdin |
//!
//! What is different on purpose stands in `golden-differences.tsv` with the reason. What differs and is not listed there
//! fails the test, and so does what is listed and does not differ. A row whose command or flag corten does not have yet, or
//! whose controller this view has not, is skipped and counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use answer::{Answer, Finding, Place};

use crate::harness::{Case, Outcome, skip};
use crate::{ensure, tests};

mod answer;

tests![corten_answers_as_runc];

const TABLE: &str = include_str!("golden.tsv");
const DIFFERENCES: &str = include_str!("golden-differences.tsv");

/// How many rows there have to be, and how many differences there may be.
const MIN_ROWS: usize = 200;
const MAX_DIFFERENCES: usize = 25;

fn corten_answers_as_runc(case: &Case) -> Outcome {
    let runc = runc(case)?;
    let rows: Vec<Row> = lines(TABLE).map(Row::parse).collect::<Result<_, _>>()?;
    let differences: Vec<Difference> = lines(DIFFERENCES).map(Difference::parse).collect::<Result<_, _>>()?;
    ensure!(rows.len() >= MIN_ROWS, "there are only {} rows", rows.len());
    ensure!(differences.len() <= MAX_DIFFERENCES, "{} differences are too many", differences.len());
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    ensure!(names.len() == rows.len(), "a name stands twice in golden.tsv");

    let mut known = Known::default();
    let (mut there, mut waiting) = (Vec::new(), BTreeMap::<&str, usize>::new());
    for row in &rows {
        match row.needs.iter().find(|need| !known.has(case, need)) {
            Some(missing) => *waiting.entry(missing).or_default() += 1,
            None => there.push(row),
        }
    }
    let answers = ask(case, &runc, &there)?;
    let found: Vec<(&Row, Vec<Finding>)> =
        there.iter().zip(answers).map(|(row, (ours, theirs))| (*row, ours.differs_from(&theirs))).collect();
    let failures = judge(&found, &differences, case.machine.is_corten());
    println!(
        "golden: {} rows alike with {}, {} wait: {waiting:?}",
        there.len(),
        runc.display(),
        rows.len() - there.len()
    );
    ensure!(failures.is_empty(), "{} rows:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// The newest packaged runc: what `integration/peers` fetches, else the machine's own if it is not older than the texts.
fn runc(case: &Case) -> Outcome<PathBuf> {
    if !matches!(case.machine.name.as_str(), "corten" | "runc") {
        return skip("this compares corten with runc");
    }
    let newest = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/bin/runc");
    let path = if newest.exists() { newest } else { PathBuf::from("/usr/sbin/runc") };
    if !path.exists() {
        return skip("there is no runc: ./setup test");
    }
    let output = case.program(&path).args(&["--version"]).go()?;
    let version: Vec<u32> =
        output.stdout.split(['.', ' ', '+', '\n']).filter_map(|word| word.parse().ok()).take(2).collect();
    if version.as_slice() < [1, 3].as_slice() {
        return skip(format!("{} is older than 1.3: ./setup test", path.display()));
    }
    Ok(path)
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// An invocation.
#[derive(Debug)]
struct Row {
    name: &'static str,
    /// none, created, running, ...
    situation: &'static str,
    /// Whether the row changes its situation.
    changes: bool,
    /// Flags, commands, `COMMAND --FLAG`, and controllers (`cgroup:pids`).
    needs: Vec<&'static str>,
    compared: Vec<&'static str>,
    words: Vec<String>,
}

impl Row {
    fn parse(line: &'static str) -> Result<Row, String> {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, situation, needs, compared, words] = columns[..] else {
            return Err(format!("golden.tsv: not five columns: {line}"));
        };
        let list = |text: &'static str| text.split("; ").filter(|word| *word != "-").collect();
        Ok(Row {
            name,
            situation: situation.trim_end_matches('!'),
            changes: situation.ends_with('!'),
            needs: list(needs),
            compared: list(compared),
            words: split(words),
        })
    }

    /// What stands behind a word in the column of what is compared.
    fn option(&self, word: &str) -> Option<&'static str> {
        self.compared.iter().find_map(|option| option.strip_prefix(word))
    }
}

/// Words as a shell splits them; quotes may not be nested.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in text.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A line of `golden-differences.tsv`.
struct Difference {
    /// Names of rows; `*` stands for any text.
    rows: &'static str,
    /// What of them is different.
    what: Vec<&'static str>,
    reason: &'static str,
}

impl Difference {
    fn parse(line: &'static str) -> Result<Difference, String> {
        match line.split('\t').collect::<Vec<_>>()[..] {
            [rows, what, reason] if !reason.is_empty() => {
                Ok(Difference { rows, what: what.split(", ").collect(), reason })
            }
            _ => Err(format!("golden-differences.tsv: not rows, what, reason: {line}")),
        }
    }

    fn applies(&self, row: &Row) -> bool {
        self.rows.split(", ").any(|pattern| matches(pattern, row.name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.get(at..).is_some_and(|tail| matches(rest, tail)))),
    }
}

/// Everything that is wrong, a line each.
fn judge(found: &[(&Row, Vec<Finding>)], differences: &[Difference], listed: bool) -> Vec<String> {
    let mut failures = Vec::new();
    for (row, findings) in found {
        let known: Vec<&Difference> = differences.iter().filter(|one| listed && one.applies(row)).collect();
        let is_known = |what: &str| known.iter().any(|one| one.what.contains(&what));
        for finding in findings.iter().filter(|finding| !is_known(finding.what)) {
            let alike =
                finding.ours.chars().zip(finding.theirs.chars()).take_while(|(ours, theirs)| ours == theirs).count();
            let [ours, theirs] = [&finding.ours, &finding.theirs]
                .map(|text| text.chars().skip(alike.saturating_sub(30)).take(200).collect::<String>());
            failures.push(format!("{}: {}: {ours:?}, runc {theirs:?}", row.name, finding.what));
        }
        for one in known {
            for what in one.what.iter().filter(|what| !findings.iter().any(|finding| finding.what == **what)) {
                failures.push(format!("{}: {what} does not differ, but is listed: {}", row.name, one.reason));
            }
        }
    }
    failures
}

/// What the runtime under test has, by its help.
#[derive(Default)]
struct Known(BTreeMap<String, String>);

impl Known {
    fn has(&mut self, case: &Case, need: &str) -> bool {
        if let Some(controller) = need.strip_prefix("cgroup:") {
            return case.has_controller(controller);
        }
        let (command, flag) = match need.split_once(' ') {
            Some((command, flag)) => (command, Some(flag)),
            None if need.starts_with("--") => ("", Some(need)),
            None => (need, None),
        };
        let help = self.0.entry(command.to_owned()).or_insert_with(|| {
            let words: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
            let output = case.program(&case.machine.runtime).args(&words).go();
            output.ok().filter(|output| output.status == 0).map(|output| output.stdout).unwrap_or_default()
        });
        match flag {
            None => !help.is_empty(),
            Some(flag) => help.split([' ', '\n', ',', '=', '[']).any(|word| word == flag),
        }
    }
}

/// What both answer to each row. The rows of one situation share a container, and rows that change theirs have one each.
fn ask(case: &Case, runc: &Path, rows: &[&Row]) -> Outcome<Vec<(Answer, Answer)>> {
    let mut jobs = VecDeque::new();
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let alike = rest.iter().take_while(|row| !row.changes && row.situation == first.situation).count();
        let (now, later) = rest.split_at(alike.max(1));
        jobs.push_back((jobs.len(), now));
        rest = later;
    }
    let queue = Mutex::new(jobs.iter().flat_map(|job| [(job, false), (job, true)]).collect::<VecDeque<_>>());
    let done = Mutex::new(BTreeMap::new());
    let parts: Vec<Case> = (0..4).map(|_| case.part(Duration::from_secs(240))).collect();
    std::thread::scope(|scope| {
        for part in parts {
            scope.spawn(|| {
                let part = part;
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
                    let Some(((number, rows), ours)) = next else { break };
                    let program = if ours { part.machine.runtime.as_path() } else { runc };
                    let answers = Place::make(&part, program).and_then(|place| place.answers(rows));
                    if let Ok(mut done) = done.lock() {
                        done.insert((*number, ours), answers);
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().map_err(|_| "a thread panicked")?;
    let mut answers = Vec::new();
    for (number, _) in jobs {
        let mut take = |ours| done.remove(&(number, ours)).unwrap_or_else(|| Err("a thread ended early".into()));
        answers.extend(take(true)?.into_iter().zip(take(false)?));
    }
    Ok(answers)
}
