//! The walls from inside: a process of its own for each, which confines itself and then tries what it
//! must not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::print_stdout)]

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use wambda_confine::{Files, Wall, compiler, server};

const ROLE: &str = "WAMBDA_CONFINE_ROLE";
const DIR: &str = "WAMBDA_CONFINE_DIR";

/// Runs one test of this program in a process of its own.
fn within(role: &str, dir: &Path) {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["--exact", role, "--nocapture", "--test-threads=1"]);
    let output = command.env(ROLE, role).env(DIR, dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn status(field: &str) -> String {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    text.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

#[test]
fn the_servers_wall() {
    let Ok(dir) = std::env::var(DIR) else {
        let dir = tempfile::tempdir().unwrap();
        return within("the_servers_wall", dir.path());
    };
    let dir = Path::new(&dir);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let wall = server(&Files { write: &[dir], run: &[Path::new("/bin/true")] }).unwrap();
    if wall == Wall::NONE {
        return println!("this kernel has neither Landlock nor seccomp: nothing to test");
    }
    // What it needs.
    std::fs::write(dir.join("own"), "data").unwrap();
    std::fs::rename(dir.join("own"), dir.join("other")).unwrap();
    std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(status("NoNewPrivs:"), "1");
    TcpStream::connect(address).unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap();
    std::thread::spawn(|| std::fs::read_to_string("/etc/hosts")).join().unwrap().unwrap();
    assert!(Command::new("/bin/true").status().unwrap().success());
    // What it must not.
    if wall.landlock != "none" {
        assert!(
            std::fs::read_to_string(outside.path().join("secret")).is_err(),
            "a file of others"
        );
        assert!(std::fs::write(outside.path().join("new"), "x").is_err(), "a file for others");
        assert!(std::fs::read_to_string("/etc/passwd").is_err(), "the users");
        assert!(std::fs::read_dir("/home").is_err() && std::fs::read_dir("/root").is_err());
        assert!(Command::new("/bin/ls").status().is_err(), "another program");
        assert!(std::fs::read_to_string("/proc/1/status").is_err(), "another process");
    }
    if wall.landlock == "full" {
        assert!(
            TcpListener::bind("127.0.0.1:0").is_err()
                || TcpListener::bind("127.0.0.1:39999").is_err()
        );
    }
    if wall.seccomp {
        assert_eq!(status("Seccomp:"), "2");
        let refused = |what: &str, failed: nix::Result<()>| {
            assert_eq!(failed, Err(nix::Error::ENOSYS), "{what}")
        };
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let flags = SockFlag::empty();
        refused(
            "a packet socket",
            socket(AddressFamily::Packet, SockType::Raw, flags, None).map(drop),
        );
        refused(
            "a netlink socket",
            socket(AddressFamily::Netlink, SockType::Raw, flags, None).map(drop),
        );
        refused("a raw socket", socket(AddressFamily::Inet, SockType::Raw, flags, None).map(drop));
        refused(
            "a Unix socket",
            socket(AddressFamily::Unix, SockType::Stream, flags, None).map(drop),
        );
        refused("a namespace", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER));
        refused("chroot", nix::unistd::chroot("/"));
    }
}

#[test]
fn the_compilers_wall() {
    if std::env::var(DIR).is_err() {
        let dir = tempfile::tempdir().unwrap();
        return within("the_compilers_wall", dir.path());
    }
    let mut open = tempfile::tempfile().unwrap();
    let wall = compiler().unwrap();
    if wall == Wall::NONE {
        return println!("this kernel has neither Landlock nor seccomp: nothing to test");
    }
    std::io::Write::write_all(&mut open, b"the file it has").unwrap();
    assert_eq!(vec![1u8; 64 << 20].len(), 64 << 20);
    assert!(std::fs::read_to_string("/etc/hosts").is_err() && std::fs::read_dir("/").is_err());
    if wall.seccomp {
        assert!(
            TcpStream::connect("127.0.0.1:1")
                .is_err_and(|e| e.raw_os_error() == Some(libc::ENOSYS))
        );
        assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "a thread");
        assert!(Command::new("/bin/true").status().is_err(), "a program");
        assert!(UdpSocket::bind("127.0.0.1:0").is_err());
    }
    // The harness would start threads and open files from here on.
    std::process::exit(0);
}
