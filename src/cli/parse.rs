//! argv -> [`Arguments`], with runc's messages and exit statuses for calls that are wrong.
//!
//! `words` sorts the words by the rules that runc's callers know, and counts; then clap gets them in one plain form and has
//! only the values to look at.

use super::words::Words;
use super::{Arguments, Global};
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser};
use std::error::Error;
use std::ffi::OsString;

/// What came of parsing.
pub enum Parsed {
    /// Run this.
    Run(Box<Arguments>),
    /// Print this to stdout and exit with 0: help.
    Print(String),
    /// Say what is wrong.
    Wrong(Box<Wrong>),
}

/// A wrong call.
pub struct Wrong {
    /// For stdout.
    pub help: String,
    /// For stderr, before the message.
    pub usage: Option<String>,
    pub message: String,
    pub status: i32,
    /// Tells where the message is logged; None if that is what is wrong.
    pub global: Option<Global>,
}

impl Wrong {
    /// A flag that does not exist or lacks its value, or whose value makes no sense; `message` says which, in Go's words.
    fn flag(message: String, help: StyledStr) -> Box<Wrong> {
        let usage = Some(format!("Incorrect Usage: {message}\n"));
        Box::new(Wrong { help: help.to_string(), usage, message, status: 1, global: None })
    }
}

/// Parses the command line.
pub fn parse(args: &[OsString]) -> Parsed {
    let mut definition = Arguments::command();
    let mut before = match Words::sort(&definition, args.get(1..).unwrap_or_default(), true) {
        Ok(before) => before,
        Err(message) => return Parsed::Wrong(Wrong::flag(message, definition.render_help())),
    };
    let words = std::mem::take(&mut before.arguments);
    let plain: Vec<OsString> = args.first().cloned().into_iter().chain(before.plain()).collect();
    let parsed = match words.split_first() {
        _ if before.help => Ok(Parsed::Print(help())),
        Some((name, words)) if !name.is_empty() && !before.has("version") => {
            parse_command(&mut definition, &plain, &name.to_string_lossy(), words)
        }
        _ => typed(&mut definition, &plain)
            .map_err(|error| Wrong::flag(explain(&error, &before), definition.render_help())),
    };
    parsed.unwrap_or_else(|mut wrong| {
        wrong.global = Arguments::try_parse_from(plain).ok().map(|arguments| arguments.global);
        Parsed::Wrong(wrong)
    })
}

/// Parses what follows the name of a command; `before` has the program's name and the global flags, in plain form.
fn parse_command(
    definition: &mut clap::Command,
    before: &[OsString],
    name: &str,
    words: &[OsString],
) -> Result<Parsed, Box<Wrong>> {
    // `corten help COMMAND` is `corten COMMAND --help`.
    let (name, words) = match (name, words) {
        ("help" | "h", []) => return Ok(Parsed::Print(help())),
        ("help" | "h", [name, ..]) => (name.to_string_lossy().into_owned(), &["--help".into()][..]),
        _ => (name.to_string(), words),
    };
    let Some(command) = definition.find_subcommand_mut(&name) else {
        let message = format!("No help topic for '{name}'\n");
        return Err(Box::new(Wrong { help: String::new(), usage: None, message, status: 3, global: None }));
    };
    command.set_bin_name(format!("corten {name}"));
    command.build();
    let first_ends = command.get_positionals().any(clap::Arg::is_trailing_var_arg_set);
    let after =
        Words::sort(command, words, first_ends).map_err(|message| Wrong::flag(message, command.render_help()))?;
    if after.help {
        return Ok(Parsed::Print(command.render_help().to_string()));
    }
    if let Some(count) = wrong_count(command, after.arguments.len()) {
        let program = before.first().map(|program| program.display().to_string()).unwrap_or_default();
        let message = format!("{program}: {name:?} requires {count} argument(s)");
        let help = format!("Incorrect Usage.\n\n{}", command.render_help());
        return Err(Box::new(Wrong { help, usage: None, message, status: 1, global: None }));
    }
    let plain: Vec<OsString> = before.iter().cloned().chain([name.as_str().into()]).chain(after.plain()).collect();
    typed(definition, &plain).map_err(|error| {
        let help = definition.find_subcommand_mut(&name).map(clap::Command::render_help).unwrap_or_default();
        Wrong::flag(explain(&error, &after), help)
    })
}

/// Lets clap make typed arguments of the plain words, in which nothing but a value can still be wrong.
fn typed(definition: &mut clap::Command, plain: &[OsString]) -> Result<Parsed, clap::Error> {
    let matches = definition.try_get_matches_from_mut(plain)?;
    Ok(Parsed::Run(Box::new(Arguments::from_arg_matches(&matches)?)))
}

/// What runc would say of a value that makes no sense.
fn explain(wrong: &clap::Error, words: &Words) -> String {
    if let (Some(ContextValue::String(argument)), Some(ContextValue::String(value)), Some(why)) =
        (wrong.get(ContextKind::InvalidArg), wrong.get(ContextKind::InvalidValue), wrong.source())
        && let Some(flag) = words.flag_of(argument)
    {
        let why = match why.to_string() {
            why if why.starts_with("strconv.") => why,
            why if ["range", "too large", "is not in"].iter().any(|text| why.contains(text)) => {
                "value out of range".into()
            }
            _ => "parse error".to_string(),
        };
        return format!("invalid value {value:?} for flag -{flag}: {why}");
    }
    let text = wrong.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string()
}

/// The number of arguments that a command takes, in runc's words, unless it has got as many.
fn wrong_count(command: &clap::Command, count: usize) -> Option<String> {
    let (min, max) = command.get_positionals().next().map_or((0, 0), |argument| {
        let range = argument.get_num_args().unwrap_or_default();
        (if argument.is_required_set() { range.min_values() } else { 0 }, range.max_values())
    });
    match (min, max) {
        _ if (min..=max).contains(&count) => None,
        _ if min == max => Some(format!("exactly {min}")),
        _ if count < min => Some(format!("a minimum of {min}")),
        _ => Some(format!("a maximum of {max}")),
    }
}

/// The help of the whole program.
pub fn help() -> String {
    Arguments::command().render_help().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::*;

    fn parsed(line: &str) -> Arguments {
        match parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()) {
            Parsed::Run(arguments) => *arguments,
            Parsed::Print(text) => panic!("{line}: {text}"),
            Parsed::Wrong(wrong) => panic!("{line}: {}", wrong.message),
        }
    }

    fn wrong(line: &str) -> (String, i32) {
        match parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()) {
            Parsed::Wrong(wrong) => (wrong.message, wrong.status),
            _ => panic!("{line} is accepted"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        for command in Arguments::command().get_subcommands_mut() {
            let about = command.get_about().cloned();
            command.build();
            assert_eq!(command.get_about(), about.as_ref(), "{}: its struct has a doc comment", command.get_name());
            assert!(
                command.get_positionals().count() <= 1,
                "{}: the counts of arguments are of one",
                command.get_name()
            );
            assert!(command.get_opts().all(|flag| flag.get_long().is_some()), "{}", command.get_name());
        }
    }

    #[test]
    fn flags_are_taken_as_go_takes_them() {
        let arguments =
            parsed("corten -root /r --debug=true run -no-subreaper id --bundle=x -b y -detach=false --keep=1");
        assert_eq!(arguments.global.root, Some("/r".into()));
        assert!(arguments.global.debug);
        let Some(Command::Run(run)) = arguments.command else { panic!("not run") };
        assert_eq!((run.create.id.as_str(), run.create.bundle), ("id", "y".into()));
        assert_eq!((run.create.no_subreaper, run.detach, run.keep), (true, false, true));
    }

    #[test]
    fn a_value_may_look_like_a_flag_and_an_empty_path_is_none() {
        let arguments = parsed("corten --root --debug --log= list -f --quiet");
        assert_eq!((arguments.global.root, arguments.global.log), (Some("--debug".into()), None));
        assert!(!arguments.global.debug);
        let Some(Command::List(list)) = arguments.command else { panic!("not list") };
        assert_eq!((list.format.as_str(), list.quiet), ("--quiet", false));
    }

    #[test]
    fn after_the_id_everything_belongs_to_the_program() {
        let arguments = parsed("corten exec -e A=b -env C=d c1 sh -c -- --env");
        let Some(Command::Exec(exec)) = arguments.command else { panic!("not exec") };
        assert_eq!(exec.env, ["A=b", "C=d"]);
        let (id, rest) = exec.split().unwrap();
        assert_eq!((id.as_str(), rest), ("c1", ["sh", "-c", "--", "--env"].map(OsString::from).to_vec()));
    }

    #[test]
    fn what_is_wrong_is_told_in_the_words_of_go() {
        for (line, message, status) in [
            ("corten nosuch", "No help topic for 'nosuch'\n", 3),
            ("corten help nosuch", "No help topic for 'nosuch'\n", 3),
            ("corten --root", "flag needs an argument: -root", 1),
            ("corten list ---q", "bad flag syntax: ---q", 1),
            ("corten list -=q", "bad flag syntax: -=q", 1),
            ("corten list -qf json", "flag provided but not defined: -qf", 1),
            ("corten list --quiet=maybe", "invalid boolean value \"maybe\" for -quiet: parse error", 1),
            ("corten list x", "corten: \"list\" requires exactly 0 argument(s)", 1),
            ("/x/corten state", "/x/corten: \"state\" requires exactly 1 argument(s)", 1),
            ("corten state a b", "corten: \"state\" requires exactly 1 argument(s)", 1),
            ("corten exec -d", "corten: \"exec\" requires a minimum of 1 argument(s)", 1),
            ("corten kill a KILL b", "corten: \"kill\" requires a maximum of 2 argument(s)", 1),
            ("corten exec -p", "flag needs an argument: -p", 1),
            ("corten create --preserve-fds x a", "invalid value \"x\" for flag -preserve-fds: parse error", 1),
        ] {
            assert_eq!(wrong(line), (message.to_string(), status), "{line}");
        }
    }
}
