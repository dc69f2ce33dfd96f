//! The image `hello`: one static program of a few hundred bytes, assembled here, so that
//! a new installation has something to run without a network.
//!
//! The program is an ELF file with one segment (elf(5)): a handful of instructions that
//! do write(1, text) and exit(0), and the text right behind them.

use hull_image::tar::{Entry, Kind, Writer};
use hull_oci::image::{Config, History, RootFs, RunConfig};
use hull_oci::{Digest, Platform};

/// What the program prints.
const TEXT: &str = "
Hello! This text comes out of a container that Hull has just run.

What happened:
 1. The command asked the daemon, over its socket, for a container of the image \"hello\".
 2. The daemon found no such image, and made it: it is part of Hull's executable.
 3. It prepared a file system of that one layer and started this program in
    namespaces of its own, where it is process 1.
 4. What the program wrote went through a shim, which also keeps it for `hull logs`,
    to your terminal. Then the program ended, and with it the container.

Try next, with programs of this machine and without a registry:
    hull image capture demo busybox
    hull run -it demo sh

";

/// Where the segment is in memory; its file offset is 0.
const ADDRESS: u64 = 0x40_0000;
const HEADERS: usize = 64 + 56;
/// Pages may be as large as this on aarch64.
const ALIGNMENT: u64 = 0x1_0000;

/// An image in two parts, as the content store takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// An uncompressed tar.
    pub layer: Vec<u8>,
    pub config: Config,
}

/// The image for this machine.
pub fn hello() -> Hello {
    let platform = Platform::host();
    let program = program(&platform.architecture);
    let mut layer = Vec::new();
    let mut entry = Entry::new(b"hello", Kind::File { size: program.len() as u64, extents: None });
    entry.mode = 0o755;
    let mut writer = Writer::new(&mut layer);
    let written = writer.file(&entry, &program).and_then(|()| writer.finish());
    // A vector takes any write, and the data has the size of its entry.
    debug_assert!(written.is_ok(), "{written:?}");
    let config = Config {
        architecture: platform.architecture,
        os: platform.os,
        config: RunConfig {
            cmd: Some(vec!["/hello".to_owned()]),
            env: vec![super::PATH_VARIABLE.to_owned()],
            ..RunConfig::default()
        },
        rootfs: RootFs { diff_ids: vec![Digest::sha256(&layer)], ..RootFs::default() },
        history: vec![History {
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            created_by: "part of hull".to_owned(),
            ..History::default()
        }],
        created: Some("1970-01-01T00:00:00Z".to_owned()),
        ..Config::default()
    };
    Hello { layer, config }
}

/// The executable for a processor.
fn program(architecture: &str) -> Vec<u8> {
    let (machine, code) = match architecture {
        "arm64" => (183, aarch64(TEXT.len())),
        _ => (62, x86_64(TEXT.len())),
    };
    let size = (HEADERS + code.len() + TEXT.len()) as u64;
    let mut file = Vec::new();
    // ELF header: 64 bits, little-endian, version 1, System V.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, machine);
    word(&mut file, 1);
    long(&mut file, ADDRESS + HEADERS as u64); // entry
    long(&mut file, 64); // program headers
    long(&mut file, 0); // no sections
    word(&mut file, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    word(&mut file, 1); // PT_LOAD
    word(&mut file, 5); // readable, executable
    for value in [0, ADDRESS, ADDRESS, size, size, ALIGNMENT] {
        long(&mut file, value);
    }
    file.extend(code);
    file.extend(TEXT.as_bytes());
    file
}

/// System calls 1 (write) and 60 (exit); the text begins right after the code.
fn x86_64(len: usize) -> Vec<u8> {
    let len = u32::try_from(len).unwrap_or(0);
    let mut code = vec![0xb8, 1, 0, 0, 0]; // mov eax, 1
    code.extend([0xbf, 1, 0, 0, 0]); // mov edi, 1
    code.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]); // lea rsi, [rip + 16]
    code.push(0xba); // mov edx, len
    code.extend(len.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xb8, 60, 0, 0, 0]); // mov eax, 60
    code.extend([0x31, 0xff]); // xor edi, edi
    code.extend([0x0f, 0x05]); // syscall
    code
}

/// System calls 64 (write) and 93 (exit); the text begins right after the code.
fn aarch64(len: usize) -> Vec<u8> {
    // movz xN, #value
    let movz = |register: u32, value: usize| 0xd280_0000 | (value as u32 & 0xffff) << 5 | register;
    // adr x1, +28: seven instructions on.
    let adr: u32 = 0x1000_0001 | (28 >> 2) << 5;
    let svc: u32 = 0xd400_0001;
    let code = [movz(0, 1), adr, movz(2, len), movz(8, 64), svc, movz(0, 0), movz(8, 93), svc];
    code.iter().flat_map(|instruction| instruction.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_begins_where_the_code_says() {
        // x86-64: `lea` ends 17 bytes into the code, and its operand is 16.
        assert_eq!(x86_64(1).len(), 17 + 16);
        // aarch64: `adr` is the second instruction, and its operand is 28.
        assert_eq!(aarch64(1).len(), 4 + 28);
        assert!(TEXT.len() < 0xffff);
        for architecture in ["amd64", "arm64"] {
            let elf = super::super::elf::parse(&program(architecture)).unwrap();
            assert_eq!((elf.loader, elf.needed.len()), (None, 0), "{architecture}");
        }
    }
}
