//! `tethered`: runs another program, which gets SIGTERM when the process that started it ends.
//!
//! `up` starts its children through this verb, so that they also end when `up` is killed. The kernel clears the setting for
//! a child process and keeps it when a process executes another program: so each child makes the setting itself.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Runs a program that ends with the process that started it.
#[derive(Debug, clap::Args)]
pub(super) struct TetheredCommand {
    /// Id of the process that starts the program
    parent: i32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Returns only if it fails.
pub(super) fn run(args: &TetheredCommand) -> Result<()> {
    set_pdeathsig(Signal::SIGTERM).context("cannot ask for a signal at the end of the parent process")?;
    if getppid() != Pid::from_raw(args.parent) {
        bail!("the parent process {} has ended", args.parent);
    }
    let (program, arguments) = args.program.split_first().context("no program")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", Path::new(program).display()))
}

/// A command that runs `program` through this verb, in a process group of its own: there an interrupt from the terminal
/// reaches only the supervisor, which stops the children in order. Arguments of the program may follow.
pub(super) fn command(program: &Path) -> Result<tokio::process::Command> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let mut command = tokio::process::Command::new(own);
    command
        .args(["tethered", &std::process::id().to_string()])
        .arg(program)
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}
