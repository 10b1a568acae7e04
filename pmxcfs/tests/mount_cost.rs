//! What usual calls cost on a real mount. Prints numbers; run with `--release -- --nocapture`.

mod common;

use std::{fs, io::Write, time::Duration};

use common::{Mounted, clock};

const ROUNDS: u32 = 1000;

fn measure(what: &str, mut call: impl FnMut(u32)) -> Duration {
    (0..ROUNDS / 10).for_each(&mut call);
    let start = clock();
    (0..ROUNDS).for_each(&mut call);
    let each = start.elapsed() / ROUNDS;
    eprintln!("{what}: {each:?}");
    each
}

#[test]
fn what_the_kernel_has_costs_no_round_trip() {
    let mounted = Mounted::new();
    mounted.sh("mkdir d; echo x > d/f; head -c 1048576 /dev/zero > d/big; cat d/f > /dev/null");
    let path = mounted.path("d/f");
    let stat = measure("stat, cached", |_| {
        assert!(fs::metadata(&path).unwrap().is_file())
    });
    let read = measure("open, read, close, cached", |_| {
        drop(fs::read(&path).unwrap())
    });
    let absent = mounted.path("d/none");
    measure("stat of an absent name, cached", |_| {
        assert!(!absent.exists())
    });
    measure("open, read, close of .version", |_| {
        fs::read(mounted.path(".version")).unwrap();
    });
    measure("rewrite: open, write, close", |round| {
        fs::write(&path, round.to_string()).unwrap();
    });
    measure("rewrite with 1000 descriptors open", {
        let held: Vec<_> = (0..1000)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let path = &path;
        move |round| {
            assert_eq!(held.len(), 1000);
            fs::write(path, round.to_string()).unwrap();
        }
    });
    measure("create, write, close, unlink", |round| {
        let name = format!("d/n{round}x{}", std::process::id());
        let mut file = fs::File::create(mounted.path(&name)).unwrap();
        file.write_all(b"content\n").unwrap();
        drop(file);
        fs::remove_file(mounted.path(&name)).unwrap();
    });
    let data = vec![1; 1 << 20];
    measure("rewrite with 1 MiB", |round| {
        let mut data = data.clone();
        data[0] = u8::try_from(round % 256).unwrap();
        fs::write(mounted.path("d/big"), &data).unwrap();
    });
    mounted.sh("cd d; for i in $(seq 500); do : > l$i; done; ls -l > /dev/null");
    let list = mounted.path("d");
    measure("list 500 names", |_| {
        assert!(fs::read_dir(&list).unwrap().count() > 500)
    });
    // The kernel answers the one alone, the daemon has a part in the other.
    assert!(stat * 2 < read, "{stat:?} {read:?}");
}
