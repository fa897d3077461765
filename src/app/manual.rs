//! The manual page and the shells' completions, made from the command line.

use crate::config::Cli;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use std::io::{self, Write};

/// Writes the completions of a shell.
///
/// # Errors
/// When nothing can be written.
pub(super) fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "espalier", &mut script);
    out.write_all(&script)
}

/// Writes one manual page, in roff, with a part for every command.
///
/// # Errors
/// When nothing can be written.
pub(super) fn man(out: &mut dyn Write) -> io::Result<()> {
    let mut root = Cli::command();
    root.build();
    let page = Man::new(root.clone());
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    commands(&root, "espalier", out)
}

fn commands(command: &clap::Command, name: &str, out: &mut dyn Write) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("{name} {}", sub.get_name());
        // Flags of the whole program are told once, at the top.
        let page = Man::new(sub.clone().bin_name(name.clone()));
        let mut part = Vec::new();
        page.render_synopsis_section(&mut part)?;
        page.render_description_section(&mut part)?;
        page.render_options_section(&mut part)?;
        writeln!(out, ".SH \"{}\"", name.to_uppercase())?;
        // What is a section of a page of its own is a subsection here.
        out.write_all(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").as_bytes())?;
        commands(sub, &name, out)?;
    }
    Ok(())
}
