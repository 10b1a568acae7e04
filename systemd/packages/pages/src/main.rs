//! Writes man pages and shell completions of the three programs into a folder, from their own
//! definitions of what may be said on the command line.
//!
//!     pages FOLDER
//!
//! | below FOLDER | what |
//! |---|---|
//! | `man/` | `NAME.SECTION`: one page for each daemon; for `pvecm` one, and one for each of its commands |
//! | `bash/NAME`, `zsh/_NAME`, `fish/NAME.fish` | completions |

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// A program with a page.
struct Program {
    command: Command,
    section: &'static str,
}

/// Who wrote the programs, as the foot of each page has it.
const SOURCE: &str = concat!("pmxcfs ", env!("CARGO_PKG_VERSION"));
/// Title of the manual.
const MANUAL: &str = "Clusters";

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(folder), None) = (args.next(), args.next()) else {
        bail!("usage: pages FOLDER");
    };
    write(&PathBuf::from(folder))
}

fn programs() -> Vec<Program> {
    let daemon = |command| Program {
        command,
        section: "8",
    };
    vec![
        daemon(corosync_lite::daemon::cli::Cli::command()),
        daemon(pmxcfs::daemon::cli::Cli::command()),
        Program {
            command: pvecm::cli::Cli::command(),
            section: "1",
        },
    ]
}

fn write(folder: &Path) -> Result<()> {
    for Program { command, section } in programs() {
        completions(&command, folder)?;
        page(&command, section, &folder.join("man"))?;
    }
    Ok(())
}

fn completions(command: &Command, folder: &Path) -> Result<()> {
    for (shell, name) in [
        (Shell::Bash, "bash"),
        (Shell::Zsh, "zsh"),
        (Shell::Fish, "fish"),
    ] {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("can not make '{}'", folder.display()))?;
        let mut command = command.clone();
        let name = command.get_name().to_owned();
        if shell == Shell::Bash {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command, &name, &mut text);
            save(&folder.join(name), &text)?;
        } else {
            clap_complete::generate_to(shell, &mut command, &name, &folder)
                .with_context(|| format!("can not write into '{}'", folder.display()))?;
        }
    }
    Ok(())
}

/// Writes the page of a program, and those of its commands with names such as `pvecm-create`.
fn page(command: &Command, section: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can not make '{}'", folder.display()))?;
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    one_page(command, section, folder)
}

fn one_page(command: Command, section: &str, folder: &Path) -> Result<()> {
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        one_page(below.clone(), section, folder)?;
    }
    // Names of pages have dashes where command lines have blanks.
    let name = command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned();
    let has_commands = command.has_subcommands();
    let after = command
        .get_after_long_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let man = Man::new(command)
        .title(name.to_uppercase())
        .section(section)
        .source(SOURCE)
        .manual(MANUAL)
        .date("");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    text.extend(sections(&after).into_bytes());
    save(&folder.join(format!("{name}.{section}")), &text)
}

/// The text after the options as sections of a page. Paragraphs of it begin with `Title:` and have
/// indented lines, as tables in plain text, or are plain sentences.
fn sections(text: &str) -> String {
    let mut roff = Roff::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        match paragraph.split_once(":\n") {
            Some((title, table)) => {
                roff.control("SH", [title.to_uppercase().as_str()]);
                roff.control("nf", []);
                for line in table.lines() {
                    roff.text([roman(line.trim_start())]);
                }
                roff.control("fi", []);
            }
            None => {
                roff.control("PP", []);
                roff.text([roman(paragraph)]);
            }
        }
    }
    roff.to_roff()
}

fn save(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).with_context(|| format!("can not write '{}'", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_and_command_has_its_page_and_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        for name in [
            "man/corosync-lite.8",
            "man/pmxcfs.8",
            "man/pvecm.1",
            "man/pvecm-create.1",
            "man/pvecm-link-set-address.1",
            "bash/pvecm",
            "zsh/_pvecm",
            "fish/pvecm.fish",
            "bash/pmxcfs",
            "bash/corosync-lite",
        ] {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.len() > 200, "{name}");
        }
        let page = fs::read_to_string(folder.path().join("man/pvecm.1")).unwrap();
        assert!(page.contains("pvecm\\-create(1)"), "{page}");
        let page = fs::read_to_string(folder.path().join("man/pmxcfs.8")).unwrap();
        assert!(
            page.contains(".SH \"EXIT CODES\"\n.nf\n0    ended"),
            "{page}"
        );
    }
}
