//! The second wall, from outside: what the processes say of themselves, and that all still works.

use std::collections::BTreeSet;
use std::time::Duration;

use wambda_tests::{Server, eventually, refused_start, wat};

use crate::wats;

/// A field of each thread's status (proc_pid_status(5)).
fn statuses(pid: u32, field: &str) -> BTreeSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    let value = |text: String| {
        text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("?").trim().to_owned()
    };
    texts.map(value).collect()
}

fn only(value: &str) -> BTreeSet<String> {
    BTreeSet::from([value.to_owned()])
}

/// Children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    texts
        .flat_map(|text| text.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn the_server_and_its_compiler_are_confined() {
    let server = Server::start();
    let confined = server.get("/version").expect(200).json()["confined"].clone();
    let off = Server::with(&["--confine", "off"]);
    assert_eq!(
        off.get("/version").json()["confined"],
        serde_json::json!({"landlock": "none", "seccomp": false})
    );
    assert_eq!(statuses(off.pid(), "Seccomp:"), only("0"));
    if confined["seccomp"] != true {
        return println!("this kernel has no seccomp: nothing to test");
    }
    assert_eq!(statuses(server.pid(), "Seccomp:"), only("2"), "each thread");
    assert_eq!(statuses(server.pid(), "NoNewPrivs:"), only("1"));
    // What takes a while to compile shows the compiler at work.
    let many = format!("(memory (export \"memory\") 1) {}", "(func)".repeat(60_000));
    let upload = wat(&wats::core_with(&many, "(i64.const 0)"));
    std::thread::scope(|scope| {
        let put = scope.spawn(|| server.put("slow", &upload, ""));
        // The server's own filter and the compiler's.
        let limits_of = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/limits"));
        // Before it there is another one that looks at the upload, and has less time.
        let two = |pid: &u32| {
            let compiles = limits_of(*pid).is_ok_and(|limits| {
                limits.lines().any(|line| line.starts_with("Max cpu time") && line.contains("120"))
            });
            compiles && statuses(*pid, "Seccomp_filters:") == only("2")
        };
        let compiler = eventually(Duration::from_secs(60), || {
            assert!(!put.is_finished(), "nobody saw the compiler confined");
            children(server.pid()).into_iter().find(two)
        });
        let stat = std::fs::read_to_string(format!("/proc/{compiler}/stat")).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        assert_eq!(after_name.split_whitespace().nth(16), Some("19"), "its niceness: {stat}");
        let told = std::fs::read_to_string(format!("/proc/{compiler}/cmdline")).unwrap();
        let landlock = confined["landlock"].as_str().unwrap();
        let wall = format!("--landlock\0{landlock}\0--seccomp\0");
        assert!(told.contains(&wall), "it would not begin behind a lesser wall: {told:?}");
        let limits = limits_of(compiler).unwrap();
        let limit =
            |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(limit("Max cpu time").contains("120"), "{limits}");
        assert!(limit("Max address space").contains("3221225472"), "{limits}");
        put.join().unwrap().expect(201);
    });
    server.assert_well();
}

#[test]
fn root_is_left_behind() {
    if !rustix::process::geteuid().is_root() {
        return println!("only root can become somebody else: nothing to test");
    }
    const WARNING: &str = "running as root: say --user NAME";
    Server::start().said().find(WARNING, Duration::from_secs(5));
    let mut server = Server::with_open(&["--user", "nobody"]);
    let ids = statuses(server.pid(), "Uid:");
    assert!(ids.iter().all(|ids| !ids.split_whitespace().any(|id| id == "0")), "{ids:?}");
    assert_eq!(statuses(server.pid(), "Groups:"), only(""), "none of root's groups");
    let scan = |server: &Server| server.get("/version").json()["pagemap_scan"].clone();
    assert_eq!(scan(&server), scan(&Server::start()), "what root's server can, this one can");
    server.deploy("f", wats::echo().as_bytes(), "");
    assert_eq!(server.invoke("f", "hi").expect(200).text(), "hi");
    server.kill();
    server.restart();
    assert_eq!(server.invoke("f", "hi").expect(200).text(), "hi");
    assert!(!server.said().text().contains(WARNING), "{}", server.said().text());
    server.assert_well();
}

fn refusal(arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    refused_start(&dir.path().join("d"), arguments)
}

#[test]
fn users_that_cannot_be_had_are_refused() {
    assert!(refusal(&["--user", "no-such-user"]).contains("there is no user \"no-such-user\""));
    assert!(refusal(&["--user", "root"]).contains("is root"));
    assert!(refusal(&["--confine", "sometimes"]).contains("auto, required, off"));
}

#[test]
fn a_taken_port_is_told_at_once() {
    let server = Server::start();
    let said = refusal(&["--listen", server.address()]);
    assert!(said.contains("cannot listen on 127.0.0.1:"), "{said}");
}
