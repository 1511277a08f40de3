//! The house rules that no compiler keeps, as tests: CONTRIBUTING.md has them for people.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ensure;
use crate::harness::{Case, Outcome};

crate::tests![
    every_source_file_says_what_it_is_for,
    every_source_file_is_in_the_architecture,
    unsafe_code_is_in_sys_only,
    no_file_is_longer_than_a_sitting,
    the_changelog_knows_the_version,
    no_path_of_a_machine_and_no_registry_is_named,
];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a directory, with their texts.
fn sources(directory: &Path) -> Outcome<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            found.push((path, text));
        }
    }
    Ok(found)
}

fn all_sources() -> Outcome<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    for directory in ["src", "integration", "benches"] {
        all.extend(sources(&repository().join(directory))?);
    }
    ensure!(all.len() > 40, "only {} source files were found", all.len());
    Ok(all)
}

fn every_source_file_says_what_it_is_for(_: &Case) -> Outcome {
    for (path, text) in all_sources()? {
        ensure!(text.starts_with("//! "), "{} does not begin with //!", path.display());
    }
    Ok(())
}

fn every_source_file_is_in_the_architecture(_: &Case) -> Outcome {
    let architecture = fs::read_to_string(repository().join("ARCHITECTURE.md"))?;
    for (path, _) in sources(&repository().join("src"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(architecture.contains(&name), "ARCHITECTURE.md does not name {}", path.display());
    }
    Ok(())
}

fn unsafe_code_is_in_sys_only(_: &Case) -> Outcome {
    for (path, text) in sources(&repository().join("src"))? {
        let in_sys = path.ends_with("src/sys.rs") || path.parent().is_some_and(|parent| parent.ends_with("src/sys"));
        let has_unsafe = text.lines().any(|line| line.contains("unsafe {") || line.contains("allow(unsafe_code"));
        ensure!(in_sys || !has_unsafe, "{} has unsafe code", path.display());
    }
    Ok(())
}

fn no_file_is_longer_than_a_sitting(_: &Case) -> Outcome {
    for (path, text) in sources(&repository().join("src"))? {
        let lines = text.lines().count();
        ensure!(lines <= 800, "{} has {lines} lines", path.display());
    }
    Ok(())
}

fn the_changelog_knows_the_version(_: &Case) -> Outcome {
    let changelog = fs::read_to_string(repository().join("CHANGELOG.md"))?;
    let manifest = fs::read_to_string(repository().join("Cargo.toml"))?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = ")).unwrap_or_default();
    let version = version.trim_matches('"');
    ensure!(
        changelog.contains("Unreleased") || changelog.contains(version),
        "CHANGELOG.md names neither {version} nor Unreleased"
    );
    Ok(())
}

fn no_path_of_a_machine_and_no_registry_is_named(_: &Case) -> Outcome {
    // Put together here, so that this file does not name them itself.
    let forbidden = [["crates", ".io/api"].concat(), ["deb.", "debian.org"].concat(), ["/wo", "rk/main"].concat()];
    for (path, text) in all_sources()? {
        for word in &forbidden {
            ensure!(!text.contains(word.as_str()), "{} names {word}", path.display());
        }
    }
    Ok(())
}
