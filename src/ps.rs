//! `ps`: the processes of a container, as the host's ps(1) shows them or as numbers.

use crate::cli::PsArgs;
use crate::error::{Context, Error, Result};
use crate::state::Container;
use nix::unistd::Pid;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// `corten ps ID [PS OPTION...]`
pub fn ps(root: &Path, args: &PsArgs) -> Result<()> {
    let (id, options) = args.words.split_first().ok_or_else(|| Error::new("ps needs a container id"))?;
    let id = id.to_str().ok_or_else(|| Error::new("invalid container ID format"))?;
    let container = Container::find(root, id)?;
    let pids = container.record()?.cgroups.processes()?;
    let text = match args.format.as_str() {
        "json" => json(&pids)?,
        "table" => table(&output_of_ps(options)?, &pids)?,
        _ => return Err(Error::new("invalid format option")),
    };
    std::io::stdout().write_all(text.as_bytes()).context(|| "write to stdout")
}

fn json(pids: &[Pid]) -> Result<String> {
    if pids.is_empty() {
        return Ok("null\n".to_string());
    }
    let numbers: Vec<i32> = pids.iter().map(|pid| pid.as_raw()).collect();
    Ok(format!("{}\n", serde_json::to_string(&numbers)?))
}

/// Both streams, for what ps complains about belongs into our error.
fn output_of_ps(options: &[std::ffi::OsString]) -> Result<String> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef")
    } else {
        command.args(options)
    };
    let output = command.output().context(|| "execute ps")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(text),
        code => {
            let status = code.map_or_else(|| "killed by a signal".to_string(), |code| format!("exit status {code}"));
            Err(Error::new(format!("{status}: {text}{}", String::from_utf8_lossy(&output.stderr))))
        }
    }
}

/// The header and the lines of these processes; in which column the pid is, the header tells.
fn table(text: &str, pids: &[Pid]) -> Result<String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Error::new("couldn't find PID field in ps output"))?;
    let mut table = format!("{header}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let field = line.split_whitespace().nth(column).unwrap_or_default();
        let pid = field.parse().map_err(|_| Error::new(format!("unable to parse pid: {field:?} in {line:?}")))?;
        if pids.contains(&Pid::from_raw(pid)) {
            table.push_str(line);
            table.push('\n');
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_are_kept() {
        let text = "USER   PID CMD\nroot     1 init\nroot    42 sleep 42\nroot   421 42\n\n";
        assert_eq!(table(text, &[Pid::from_raw(42)]).unwrap(), "USER   PID CMD\nroot    42 sleep 42\n");
        assert_eq!(table(text, &[]).unwrap(), "USER   PID CMD\n");
        assert!(table("USER\nroot\n", &[]).unwrap_err().to_string().contains("couldn't find PID field"));
        assert_eq!(json(&[Pid::from_raw(1), Pid::from_raw(2)]).unwrap(), "[1,2]\n");
        assert_eq!(json(&[]).unwrap(), "null\n");
    }
}
