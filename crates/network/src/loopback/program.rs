//! The programs of [`super::Loopback`], in BPF's instructions (Linux' `bpf_sock_addr`, `bpf_sock`
//! and helpers: linux/bpf.h). For little-endian machines: what is loaded from a port's two bytes
//! and stored as four is compared with what the daemon has written.

use std::os::fd::AsRawFd;

use hull_sys::bpf::Instruction;

/// Bytes of a key of `ways`: the namespace's number, address and port.
pub(super) const KEY: usize = 16;
/// Bytes of an address and a port.
pub(super) const WAY: usize = 8;
/// Bytes of a socket's number.
pub(super) const COOKIE: usize = 8;
/// Bytes of what is noted of a socket: where it was to be connected, where it is.
pub(super) const TAKEN: usize = 16;

// Operations on 64 bits unless they say otherwise; `…_OF` has an immediate for its source.
const LOAD_BYTE: u8 = 0x71;
const LOAD_HALF: u8 = 0x69;
const LOAD_WORD: u8 = 0x61;
const LOAD: u8 = 0x79;
const LOAD_MAP: u8 = 0x18;
const STORE_WORD: u8 = 0x63;
const STORE: u8 = 0x7b;
const STORE_WORD_OF: u8 = 0x62;
const MOVE: u8 = 0xbf;
const MOVE_OF: u8 = 0xb7;
const ADD_OF: u8 = 0x07;
const JUMP_IF_EQUAL_TO: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x5d;
const JUMP_UNLESS_EQUAL_TO: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// The source of a [`LOAD_MAP`] is a map's descriptor (BPF_PSEUDO_MAP_FD).
const MAP_DESCRIPTOR: u8 = 1;

// Helpers, by their numbers.
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const SOCKET_COOKIE: i32 = 46;
const NAMESPACE_COOKIE: i32 = 122;

// Of `struct bpf_sock_addr`.
const ADDRESS: i16 = 4;
const PORT: i16 = 24;
const PROTOCOL: i16 = 36;
const SOCKET: i16 = 64;

// Of `struct bpf_sock`.
const BOUND_LINK: i16 = 0;
const OWN_ADDRESS: i16 = 24;
const PEER_PORT: i16 = 48;
const PEER_ADDRESS: i16 = 52;

const TCP: i32 = 6;
const CONTEXT: u8 = 6;
const STACK: u8 = 10;

/// A program that ends by letting the call go on, from wherever it leaves.
#[derive(Default)]
struct Program {
    code: Vec<Instruction>,
    leaving: Vec<usize>,
}

impl Program {
    /// The context is kept from the helpers, which change registers 0 to 5.
    fn begin() -> Program {
        let mut program = Program::default();
        program.add(MOVE, CONTEXT, 1, 0, 0);
        program
    }

    fn add(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction::new(code, destination, source, offset, immediate));
    }

    /// A jump to the end.
    fn leave(&mut self, code: u8, left: u8, right: u8, immediate: i32) {
        self.leaving.push(self.code.len());
        self.add(code, left, right, 0, immediate);
    }

    /// The helper's answer is in register 0. Its first argument is the context.
    fn ask(&mut self, helper: i32) {
        self.add(MOVE, 1, CONTEXT, 0, 0);
        self.add(CALL, 0, 0, 0, helper);
    }

    fn map(&mut self, map: &impl AsRawFd) {
        self.add(LOAD_MAP, 1, MAP_DESCRIPTOR, 0, map.as_raw_fd());
        self.add(0, 0, 0, 0, 0);
    }

    /// A place on the stack, as an argument.
    fn place(&mut self, argument: u8, at: i16) {
        self.add(MOVE, argument, STACK, 0, 0);
        self.add(ADD_OF, argument, 0, 0, at.into());
    }

    /// Register 0 points to the value of the key on the stack, or is 0.
    fn look_up(&mut self, map: &impl AsRawFd, key: i16) {
        self.map(map);
        self.place(2, key);
        self.add(CALL, 0, 0, 0, MAP_LOOKUP);
    }

    fn end(mut self) -> Vec<Instruction> {
        let end = self.code.len();
        for at in self.leaving {
            // A program is some dozens of instructions.
            self.code[at].offset = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
        }
        self.code.push(Instruction::new(MOVE_OF, 0, 0, 0, 1));
        self.code.push(Instruction::new(EXIT, 0, 0, 0, 0));
        self.code
    }
}

/// connect(2): leads a TCP socket that is not bound to where `ways` says, and notes it in `taken`.
pub(super) fn connect(ways: &impl AsRawFd, taken: &impl AsRawFd) -> Vec<Instruction> {
    // The key of `ways`, that of `taken`, and its value.
    let (key, cookie, note) = (-16, -24, -40);
    let mut program = Program::begin();
    program.add(LOAD_WORD, 2, CONTEXT, PROTOCOL, 0);
    program.leave(JUMP_UNLESS_EQUAL_TO, 2, 0, TCP);
    program.add(LOAD_BYTE, 2, CONTEXT, ADDRESS, 0);
    program.leave(JUMP_UNLESS_EQUAL_TO, 2, 0, 127);
    program.add(LOAD, 2, CONTEXT, SOCKET, 0);
    program.leave(JUMP_IF_EQUAL_TO, 2, 0, 0);
    for field in [OWN_ADDRESS, BOUND_LINK] {
        program.add(LOAD_WORD, 3, 2, field, 0);
        program.leave(JUMP_UNLESS_EQUAL_TO, 3, 0, 0);
    }
    program.ask(NAMESPACE_COOKIE);
    program.add(STORE, STACK, 0, key, 0);
    program.add(LOAD_WORD, 7, CONTEXT, ADDRESS, 0);
    program.add(LOAD_WORD, 8, CONTEXT, PORT, 0);
    program.add(STORE_WORD, STACK, 7, key + 8, 0);
    program.add(STORE_WORD, STACK, 8, key + 12, 0);
    program.look_up(ways, key);
    // Else what is published at all addresses: the same key without one, in seven instructions.
    program.add(JUMP_UNLESS_EQUAL_TO, 0, 0, 7, 0);
    program.add(STORE_WORD_OF, STACK, 0, key + 8, 0);
    program.look_up(ways, key);
    program.leave(JUMP_IF_EQUAL_TO, 0, 0, 0);
    program.add(STORE_WORD, STACK, 7, note, 0);
    program.add(STORE_WORD, STACK, 8, note + 4, 0);
    program.add(LOAD, 7, 0, 0, 0);
    program.add(STORE, STACK, 7, note + 8, 0);
    program.ask(SOCKET_COOKIE);
    program.add(STORE, STACK, 0, cookie, 0);
    program.map(taken);
    program.place(2, cookie);
    program.place(3, note);
    program.add(MOVE_OF, 4, 0, 0, 0);
    program.add(CALL, 0, 0, 0, MAP_UPDATE);
    for (field, part) in [(ADDRESS, note + 8), (PORT, note + 12)] {
        program.add(LOAD_WORD, 2, STACK, part, 0);
        program.add(STORE_WORD, CONTEXT, 2, field, 0);
    }
    program.end()
}

/// getpeername(2), or getsockname(2): of a socket that was led, and is still connected there, tells
/// what its program has asked for.
pub(super) fn name(taken: &impl AsRawFd, peer: bool) -> Vec<Instruction> {
    let cookie = -8;
    let mut program = Program::begin();
    program.ask(SOCKET_COOKIE);
    program.add(STORE, STACK, 0, cookie, 0);
    program.look_up(taken, cookie);
    program.leave(JUMP_IF_EQUAL_TO, 0, 0, 0);
    program.add(LOAD, 2, CONTEXT, SOCKET, 0);
    program.leave(JUMP_IF_EQUAL_TO, 2, 0, 0);
    for (load, field, part) in [(LOAD_WORD, PEER_ADDRESS, 8), (LOAD_HALF, PEER_PORT, 12)] {
        program.add(load, 3, 2, field, 0);
        program.add(load, 4, 0, part, 0);
        program.leave(JUMP_UNLESS_EQUAL, 3, 4, 0);
    }
    if peer {
        for (field, part) in [(ADDRESS, 0), (PORT, 4)] {
            program.add(LOAD_WORD, 3, 0, part, 0);
            program.add(STORE_WORD, CONTEXT, 3, field, 0);
        }
    } else {
        program.add(MOVE_OF, 3, 0, 0, i32::from_ne_bytes([127, 0, 0, 1]));
        program.add(STORE_WORD, CONTEXT, 3, ADDRESS, 0);
    }
    program.end()
}
