//! One runtime's answer to a row: the place where it is asked, and what is left of the answer when everything that is
//! different in any two runs has been taken out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Row;
use crate::harness::{Case, Outcome, Stop};
use crate::runtime::Output;

/// How an answer begins that does not have the text which it should have.
const LACKS: &str = "without the text: ";

/// What a runtime answered, in words that can be compared.
#[derive(Debug, Default)]
pub struct Answer(BTreeMap<&'static str, String>);

/// Something that two answers do not have in common.
pub struct Finding {
    /// status, usage (the line "Incorrect Usage" and where it is), stdout, stderr, log, pid file, file, after
    pub what: &'static str,
    pub ours: String,
    pub theirs: String,
}

impl Answer {
    /// What is different.
    pub fn differs_from(&self, other: &Answer) -> Vec<Finding> {
        let pairs =
            self.0.iter().map(|(what, ours)| (*what, ours.clone(), other.0.get(what).cloned().unwrap_or_default()));
        pairs
            .filter(|(_, ours, theirs)| ours != theirs || ours.starts_with(LACKS))
            .map(|(what, ours, theirs)| Finding { what, ours, theirs })
            .collect()
    }
}

/// A directory with bundles and files, a `--root`, and the id of a container.
pub struct Place<'c> {
    case: &'c Case<'c>,
    program: &'c Path,
    dir: PathBuf,
    id: String,
}

impl<'c> Place<'c> {
    /// Makes one. Those of both runtimes have names of the same length, so that tables have the same columns.
    pub fn make(case: &'c Case<'c>, program: &'c Path) -> Outcome<Place<'c>> {
        let number = case.next();
        let (dir, id) = (case.dir.join(format!("{number:04}")), format!("{}-{number:04}", case.tag));
        let place = Place { case, program, dir, id };
        fs::create_dir_all(place.dir.join("root"))?;
        case.make_rootfs(&place.dir.join("rootfs"))?;
        place.make_bundles()?;
        let process = json!({"args": ["sh", "-c", "echo $A; pwd"], "cwd": "/tmp", "env": ["PATH=/bin", "A=file"],
            "user": {"uid": 5, "gid": 6}});
        let resources = json!({"pids": {"limit": 30}});
        for (name, text) in [
            ("file", "text\n".to_owned()),
            ("emptyfile", String::new()),
            ("process", process.to_string()),
            (
                "sleepprocess",
                json!({"args": ["/bin/sleep", "100"], "cwd": "/", "user": {"uid": 0, "gid": 0}}).to_string(),
            ),
            ("cutprocess", process.to_string().chars().take(20).collect()),
            ("resources", resources.to_string()),
        ] {
            fs::write(place.dir.join(name), text)?;
        }
        Ok(place)
    }

    fn make_bundles(&self) -> Outcome {
        let rootfs = self.dir.join("rootfs");
        let config = |args: Value| {
            json!({"ociVersion": "1.0.2",
                "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
                    "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}},
                "root": {"path": rootfs},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}],
                "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}})
        };
        let with = |pointer: &str, value: Value, mut config: Value| {
            crate::bundle::set(&mut config, pointer, value);
            config
        };
        let sleep = config(json!(["sleep", "1000"]));
        let killed = with("/linux/namespaces", json!([{"type": "mount"}]), config(json!(["sh", "-c", "kill -9 $$"])));
        let mut bundles = vec![
            ("true", config(json!(["true"])).to_string()),
            ("out3", config(json!(["sh", "-c", "echo out; echo err >&2; exit 3"])).to_string()),
            ("signal", killed.to_string()),
            ("nobin", config(json!(["nosuchbin"])).to_string()),
            ("nopath", config(json!(["/nosuch"])).to_string()),
            ("nox", config(json!(["/etc/passwd"])).to_string()),
            ("isdir", config(json!(["/etc"])).to_string()),
            ("noargs", config(json!([])).to_string()),
            ("norootfs", with("/root/path", json!(self.dir.join("missing")), sleep.clone()).to_string()),
            ("annotated", with("/annotations", json!({"b": "1", "a": "", "c.d/e": "x y"}), sleep.clone()).to_string()),
            ("terminal", with("/process/terminal", json!(true), sleep.clone()).to_string()),
            (
                "shortterminal",
                with("/process/terminal", json!(true), config(json!(["sh", "-c", "tty; exit 4"]))).to_string(),
            ),
            ("emptyconfig", String::new()),
            ("cut", sleep.to_string().chars().take(100).collect()),
        ];
        bundles.push(("bundle", sleep.to_string()));
        for (name, config) in bundles {
            fs::create_dir(self.dir.join(name))?;
            fs::write(self.dir.join(name).join("config.json"), config)?;
        }
        Ok(fs::create_dir(self.dir.join("noconfig"))?)
    }

    /// The answers to rows of one situation.
    pub fn answers(&self, rows: &[&Row]) -> Outcome<Vec<Answer>> {
        let situation = rows.first().map_or("none", |row| row.situation);
        let made = self.arrange(situation);
        let answers = match &made {
            Ok(()) => rows.iter().map(|row| self.answer(row)).collect(),
            Err(_) => Ok(Vec::new()),
        };
        for id in [self.id.clone(), format!("{}-b", self.id), format!("-{}", self.id)] {
            self.run(&["delete", "--force", "--", &id])?;
        }
        made.map_err(|stop| crate::bundle::within(stop, &format!("{situation} with {}", self.program.display())))?;
        answers
    }

    fn run(&self, words: &[&str]) -> Outcome<Output> {
        self.case.program(self.program).args(&["--root"]).args(&[self.dir.join("root")]).args(words).go()
    }

    fn arrange(&self, situation: &str) -> Outcome {
        let bundle = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let create = |command: &[&str], name: &str, id: &str| {
            self.run(&[command, &["--bundle", &bundle(name), id]].concat())?.succeeds().map(drop)
        };
        let run = || create(&["run", "-d"], "bundle", &self.id).and_then(|()| self.executes());
        match situation {
            "none" => Ok(()),
            "created" => create(&["create"], "bundle", &self.id),
            "running" => run(),
            "annotated" => create(&["create"], "annotated", &self.id),
            "two" => {
                create(&["create"], "bundle", &format!("{}-b", self.id))?;
                run()
            }
            "paused" => {
                run()?;
                self.run(&["pause", &self.id])?.succeeds().map(drop)
            }
            "stopped" => {
                create(&["run", "-d"], "true", &self.id)?;
                self.reaches("stopped")
            }
            "foreign" => {
                fs::create_dir(self.dir.join("root/foreign"))?;
                Ok(fs::write(self.dir.join("root/file"), "")?)
            }
            other => Err(format!("golden.tsv: {other} is no situation").into()),
        }
    }

    fn state(&self) -> Outcome<Value> {
        Ok(serde_json::from_str(&self.run(&["state", &self.id])?.stdout).unwrap_or_default())
    }

    /// Waits until the program of a running container is the user's: runc does not.
    fn executes(&self) -> Outcome {
        let command = format!("/proc/{}/cmdline", self.state()?.get("pid").unwrap_or(&Value::Null));
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && !fs::read_to_string(&command)?.starts_with("sleep") {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn status(&self) -> Outcome<String> {
        let state = self.state()?;
        Ok(state.get("status").and_then(Value::as_str).unwrap_or("none").to_owned())
    }

    fn reaches(&self, status: &str) -> Outcome {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if self.status()? == status {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{} does not become {status}", self.id).into())
    }

    /// The arguments and options of a row name the files of the place in braces.
    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("{dir}", &self.dir.to_string_lossy()).replace("{id}", &self.id);
        while let Some((before, (name, after))) = text.split_once('{').and_then(|(a, b)| Some((a, b.split_once('}')?)))
        {
            let value = match name {
                "long" => "x".repeat(300),
                name => self.dir.join(name).to_string_lossy().into_owned(),
            };
            text = format!("{before}{value}{after}");
        }
        text
    }

    fn answer(&self, row: &Row) -> Outcome<Answer> {
        self.tidy()?;
        let mut words: Vec<String> = row.words.iter().map(|word| self.fill(word)).collect();
        // `{bare}` is a row without --root.
        if row.words.first().is_some_and(|word| word == "{bare}") {
            words.remove(0);
        } else {
            words.splice(0..0, ["--root".to_owned(), self.fill("{root}")]);
        }
        let shell = |script: &str| self.case.program(Path::new("/bin/sh")).args(&["-c", script]).args(&[self.program]);
        let mut invocation = match row.option("stdin=") {
            Some(file) => shell(&format!("exec \"$0\" \"$@\" <{}", self.fill(file))),
            // `script` runs a line of the shell in a terminal.
            None if row.compared.contains(&"tty") => {
                let words: Vec<String> = words.drain(..).map(|word| format!("'{word}'")).collect();
                shell(&format!("exec script -qec \"$0 {}\" /dev/null", words.join(" ")))
            }
            None => self.case.program(self.program),
        };
        if let Some(dir) = row.option("cwd=") {
            invocation = invocation.cwd(Path::new(&self.fill(dir)));
        }
        let mut answer = Answer::default();
        match invocation.args(&words).go() {
            Ok(output) => self.describe(row, &output, &mut answer),
            Err(Stop::Fail(hang)) if hang.starts_with("hang") => drop(answer.0.insert("status", "hang".to_owned())),
            Err(stop) => return Err(stop),
        }
        if row.changes {
            answer.0.insert("after", self.status_after(row)?);
        }
        Ok(answer)
    }

    /// The files that a row may write, as they are before it.
    fn tidy(&self) -> Outcome {
        for name in ["log", "pidfile", "the.pid"] {
            let _ = fs::remove_file(self.dir.join(name));
        }
        let _ = fs::remove_dir_all(self.dir.join("new"));
        fs::create_dir(self.dir.join("new"))?;
        fs::write(self.dir.join("oldlog"), "what was there\n")?;
        Ok(fs::write(self.dir.join("oldpidfile"), "123456789 and more\n")?)
    }

    /// A signal may take a moment.
    fn status_after(&self, row: &Row) -> Outcome<String> {
        let end = Instant::now() + Duration::from_millis(500);
        loop {
            let status = self.status()?;
            if status == "stopped" || !row.words.contains(&"kill".to_owned()) || Instant::now() > end {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn describe(&self, row: &Row, output: &Output, answer: &mut Answer) {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).ok();
        let has = |text: &str, wanted: &str| match text.contains(wanted) {
            true => wanted.to_owned(),
            false => format!("{LACKS}{text}"),
        };
        // `script` echoes the end of its input at some time.
        let (stdout, stderr) = (self.plain(&output.stdout).replace("^@", ""), self.plain_log(&output.stderr));
        let (usage, stdout, stderr) = take_usage(&stdout, &stderr);
        let stdout = match row.option("out~") {
            Some(wanted) => has(&stdout, wanted),
            None if row.compared.contains(&"json") => json_shape(&stdout, literal),
            None if row.compared.contains(&"json:keys") => json_shape(&stdout, keys),
            None if row.compared.contains(&"table") => table_shape(&stdout),
            // What ps prints is its own affair: its header, and the right number of processes.
            None if row.compared.contains(&"ps") => {
                let header: Vec<&str> = stdout.lines().next().unwrap_or_default().split_whitespace().collect();
                format!("{} and {} processes", header.join(" "), stdout.lines().count().saturating_sub(1))
            }
            None => stdout,
        };
        let mut log = read("log").map(|text| self.plain_log(&text)).unwrap_or_default();
        log.push('\n');
        log.push_str(&read("oldlog").map(|text| self.plain_log(&text)).unwrap_or_default());
        if row.compared.contains(&"debug") {
            let (debug, rest): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.contains(" debug]"));
            log = format!("{} debug lines\n{}", if debug.is_empty() { "no" } else { "some" }, rest.join("\n"));
        }
        let pid_files = ["pidfile", "oldpidfile", "the.pid"].map(|name| match read(name) {
            Some(text) if text.parse::<u32>().is_ok() => "a pid".to_owned(),
            Some(text) => text,
            None => "none".to_owned(),
        });
        answer.0.insert("status", output.status.to_string());
        answer.0.insert("usage", usage);
        answer.0.insert("stdout", stdout);
        answer.0.insert("stderr", row.option("err~").map_or_else(|| stderr.clone(), |wanted| has(&stderr, wanted)));
        answer.0.insert("log", log);
        answer.0.insert("pid file", pid_files.join(", "));
        if let Some(file) = row.option("file=") {
            let text = fs::read_to_string(self.fill(file)).unwrap_or_else(|error| error.to_string());
            answer.0.insert("file", json_shape(&self.plain(&text), literal));
        }
    }

    /// A text without what is different in any two runs; of a help there is left whose it is.
    fn plain(&self, text: &str) -> String {
        let text = text.replace(&*self.program.to_string_lossy(), "{program}");
        let text = text.replace(&*self.dir.to_string_lossy(), "{dir}").replace(&self.id, "{id}");
        let text = [" create failed: ", " run failed: ", " will detach ", " will not detach "].iter().fold(
            text,
            |text, part| {
                text.replace(&format!("runc{part}"), &format!("NAME{part}"))
                    .replace(&format!("corten{part}"), &format!("NAME{part}"))
            },
        );
        if let Some((before, help)) = text.split_once("NAME:\n   runc ") {
            let whose = help.split(" - ").next().unwrap_or_default();
            return format!("{before}<help {}>", if help.starts_with("- ") { "" } else { whose });
        }
        if let Some((before, usage)) = text.split_once("Usage: corten ") {
            let whose = usage.split([' ', '\n']).next().unwrap_or_default();
            let mistake =
                before.split_once("\n\n").map(|(mistake, _)| mistake).filter(|text| text.starts_with("Incorrect"));
            let mistake = mistake.map(|text| format!("{text}\n\n")).unwrap_or_default();
            return format!("{mistake}<help {}>", whose.trim_start_matches("[OPTIONS]"));
        }
        text
    }

    /// Lines of a log as `[text error] message` or `[json error] message`, others as they are.
    fn plain_log(&self, text: &str) -> String {
        let is_runc = !self.case.machine.is_corten() || self.program != self.case.machine.runtime;
        let lines =
            self.plain(text).lines().map(|line| log_line(line).unwrap_or_else(|| line.to_owned())).collect::<Vec<_>>();
        // runc has warnings about cgroup v2.
        let lines = lines.into_iter().filter(|line| !(is_runc && line.starts_with('[') && line.contains(" warning] ")));
        mask_pids(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Takes the line "Incorrect Usage: ..." from where it is: with the stream, and what is left of stdout and stderr.
fn take_usage(stdout: &str, stderr: &str) -> (String, String, String) {
    let split = |text: &str| -> Option<(String, String)> {
        let (line, rest) = text.split_once("\n\n").filter(|_| text.starts_with("Incorrect Usage"))?;
        Some((line.to_owned(), rest.to_owned()))
    };
    match (split(stdout), split(stderr)) {
        (Some((line, rest)), None) => (format!("stdout: {line}"), rest, stderr.to_owned()),
        (None, Some((line, rest))) => (format!("stderr: {line}"), stdout.to_owned(), rest),
        _ => (String::new(), stdout.to_owned(), stderr.to_owned()),
    }
}

fn log_line(line: &str) -> Option<String> {
    let level_and_message = |level: &str, message: &str, format: &str| format!("[{format} {level}] {message}");
    if let Ok(Value::Object(mut entry)) = serde_json::from_str::<Value>(line) {
        let sorted = entry.keys().is_sorted();
        // The keys that a log may have in addition (the rest of the names is free for that), and those of runc's --debug.
        for key in ["code", "errno", "phase", "path", "hint", "func", "file"] {
            entry.shift_remove(key);
        }
        let keys: Vec<&str> = entry.keys().map(String::as_str).collect();
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let format =
            if sorted && keys == ["level", "msg", "time"] && is_time(text("time")) { "json" } else { "odd json" };
        return Some(level_and_message(text("level"), text("msg"), format));
    }
    let (time, rest) = line.strip_prefix("time=\"")?.split_once("\" level=")?;
    let (level, message) = rest.split_once(" msg=")?;
    // Further fields may follow. Go's quoting is JSON's, as far as these texts go.
    let message = match message.starts_with('"') {
        true => serde_json::Deserializer::from_str(message).into_iter::<String>().next()?.ok()?,
        false => message.split(' ').next().unwrap_or_default().to_owned(),
    };
    Some(level_and_message(level, &message, if is_time(time) { "text" } else { "odd text" }))
}

/// RFC 3339 in UTC, to the second.
fn is_time(text: &str) -> bool {
    let pattern = "0000-00-00T00:00:00Z";
    let digits = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
    digits == pattern
}

/// `pid 123` is another one in each run.
fn mask_pids(text: &str) -> String {
    let mut parts = text.split("pid ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| format!("{text}pid {}", part.trim_start_matches(|c: char| c.is_ascii_digit())))
}

/// JSON in the layout that it has, with what differs masked.
fn json_shape(text: &str, shape: fn(&Value) -> Value) -> String {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return format!("no JSON: {text}");
    };
    let indent = text.lines().nth(1).map_or(0, |line| line.len() - line.trim_start().len());
    let kind = if text.contains("\n\t") { "tabs" } else { "blanks" };
    let end = if text.ends_with('\n') { "a newline" } else { "nothing" };
    format!("indented by {indent} {kind}, ends in {end}: {}", shape(&value))
}

/// Everything but numbers, times, and the version of the specification.
fn literal(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let masked = object.iter().map(|(key, value)| match key.as_str() {
                "ociVersion" => (key.clone(), json!("a version")),
                "created" => (key.clone(), json!(value.as_str().is_some_and(is_long_time))),
                _ => (key.clone(), literal(value)),
            });
            Value::Object(masked.collect())
        }
        Value::Array(array) => Value::Array(array.iter().map(literal).collect()),
        Value::Number(number) if number.as_u64() != Some(0) => json!("a number"),
        other => other.clone(),
    }
}

fn is_long_time(text: &str) -> bool {
    text.ends_with('Z') && text.len() > 20 && text.get(..19).is_some_and(|time| is_time(&format!("{time}Z")))
}

/// Only the keys, and of an array the first element. In `events` `throttling` may be left out if there is nothing in it,
/// and so may figures that are 0: whether a container has used any CPU time or page cache is chance.
fn keys(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let may_lack = |key: &str, value: &Value| match key {
                "throttling" => *value == json!({}),
                "total" | "cache" => value.is_number(),
                _ => false,
            };
            let rest = object.iter().filter(|(key, value)| !may_lack(key, value));
            Value::Object(rest.map(|(key, value)| (key.clone(), keys(value))).collect())
        }
        Value::Array(array) => Value::Array(array.first().map(keys).into_iter().collect()),
        _ => Value::Null,
    }
}

/// The cells of each line and where they begin, but for the last column: that depends on the digits of the time.
fn table_shape(text: &str) -> String {
    let mut shape = String::new();
    for line in text.lines() {
        let mut at = 0;
        let cells: Vec<&str> = line.split("  ").collect();
        for cell in cells {
            let trimmed = cell.trim();
            if !trimmed.is_empty() {
                let masked = match trimmed {
                    number if number != "0" && number.bytes().all(|byte| byte.is_ascii_digit()) => "a number",
                    time if is_long_time(time) => "a time",
                    other => other,
                };
                // An odd number of blanks leaves one at the head of the cell.
                let begins = at + cell.len() - cell.trim_start().len();
                let column = if matches!(trimmed, "OWNER" | "root") { "last".to_owned() } else { begins.to_string() };
                shape.push_str(&format!("[{column}: {masked}]"));
            }
            at += cell.len() + 2;
        }
        shape.push('\n');
    }
    shape
}
