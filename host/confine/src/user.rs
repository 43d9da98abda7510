//! Becoming another user, for servers that are started as root to listen on a low port.

use std::path::Path;

use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, User, chown, setgid, setgroups, setuid};

/// A user of this machine.
#[derive(Debug, Clone)]
pub struct Unprivileged {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Unprivileged {
    /// Looks up a name in the machine's user database.
    ///
    /// # Errors
    /// A text, when there is no such user, or it is root.
    pub fn find(name: &str) -> Result<Self, String> {
        let found =
            User::from_name(name).map_err(|e| format!("cannot look up user {name:?}: {e}"))?;
        let user = found.ok_or_else(|| format!("there is no user {name:?} on this machine"))?;
        if user.uid.is_root() {
            return Err(format!("user {name:?} is root: name one that is not"));
        }
        Ok(Self { name: name.to_owned(), uid: user.uid, gid: user.gid })
    }

    /// Gives a file or directory to this user.
    ///
    /// # Errors
    /// A text.
    pub fn give(&self, path: &Path) -> Result<(), String> {
        chown(path, Some(self.uid), Some(self.gid))
            .map_err(|e| format!("cannot give {} to {:?}: {e}", path.display(), self.name))
    }

    /// Becomes this user, with none of the groups it was in, for good.
    ///
    /// # Errors
    /// A text, when this process is not root.
    pub fn become_it(&self) -> Result<(), String> {
        let failed = |e| format!("cannot become user {:?}: {e}", self.name);
        setgroups(&[])
            .and_then(|()| setgid(self.gid))
            .and_then(|()| setuid(self.uid))
            .map_err(failed)?;
        if setuid(Uid::from_raw(0)).is_ok() {
            return Err(format!("became user {:?}, and root again", self.name));
        }
        // The kernel hides a process that changed its user from its new user, and with that from
        // itself: /proc/self/pagemap, which resets instances cheaply, would be out of reach.
        set_dumpable(true).map_err(failed)
    }
}
