//! Passwords: bcrypt hashes, and how often they may be tried.
//!
//! One check takes tens of milliseconds of a processor by design. So a pair that was right is remembered for
//! some minutes after its last use (as a keyed hash, of the user's stored hash too, so that a changed password
//! is another pair), two checks run at a time, and an address that is wrong too often about a user waits: others
//! behind it do not.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use super::AuthError;

/// For so long after its last use a pair that was right is not checked again.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Checks at a time, and those that wait for one.
const RUNNING: usize = 2;
const WAITING: usize = 64;
/// Wrong tries of an address for a user within the time.
const TRIES: u32 = 20;
const WITHIN: Duration = Duration::from_secs(60);
/// Entries of either memory.
const MOST: usize = 10_000;
/// A hash above takes more than a second.
const COST: u32 = 14;
/// What is checked for a user that does not exist, so that it takes as long, with the file's highest cost.
const NOBODY: &str = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

/// Users and the hashes of their passwords.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    users: HashMap<String, String>,
    /// The highest of any.
    cost: u32,
}

impl Hashes {
    pub(super) fn get(&self, user: &str) -> Option<&str> {
        self.users.get(user).map(String::as_str)
    }

    fn nobody(&self) -> String {
        match self.cost {
            0 => NOBODY.to_owned(),
            cost => NOBODY.replacen("$10$", &format!("${cost:02}$"), 1),
        }
    }

    /// # Errors
    /// What is wrong with it, without the hash.
    pub(super) fn insert(&mut self, user: &str, hash: &str) -> Result<(), String> {
        let parts = HashParts::from_str(hash).map_err(|_| {
            format!("the password of {user:?} is not hashed by bcrypt: make it with `htpasswd -B`")
        })?;
        if parts.get_cost() > COST {
            return Err(format!(
                "the password of {user:?} is hashed with cost {}, at most {COST}",
                parts.get_cost()
            ));
        }
        self.cost = self.cost.max(parts.get_cost());
        match self.users.insert(user.to_owned(), hash.to_owned()) {
            None => Ok(()),
            Some(_) => Err(format!("the user {user:?} is there twice")),
        }
    }

    /// Lines of `NAME:HASH`, as `htpasswd -B` writes them; `#` begins a comment.
    pub(super) fn of_htpasswd(text: &str) -> Result<Hashes, String> {
        let mut hashes = Hashes::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) =
                line.split_once(':').ok_or_else(|| format!("line {} is not NAME:HASH", number + 1))?;
            hashes.insert(user, hash)?;
        }
        Ok(hashes)
    }
}

/// What a check comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    TooMany { seconds: u64 },
}

/// An address, and the keyed hash of the user's name that it tries.
type Who = (IpAddr, Vec<u8>);

pub(super) struct Passwords {
    key: hmac::Key,
    right: Mutex<HashMap<Vec<u8>, Instant>>,
    wrong: Mutex<HashMap<Who, (u32, Instant)>>,
    running: Semaphore,
    waiting: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room in a memory of things with an age.
fn bound<K: Eq + Hash, V>(memory: &mut HashMap<K, V>, since: impl Fn(&V) -> Instant, life: Duration) {
    if memory.len() >= MOST {
        memory.retain(|_, value| since(value).elapsed() < life);
    }
    if memory.len() >= MOST {
        memory.clear();
    }
}

/// A customer of IPv6 has a whole network of addresses.
fn network(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.into(),
            None => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

impl Passwords {
    pub(super) fn new() -> Result<Passwords, AuthError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| {
            AuthError::Read { path: "/dev/urandom".into(), source: std::io::Error::other("no random bytes") }
        })?;
        Ok(Passwords {
            key,
            right: Mutex::default(),
            wrong: Mutex::default(),
            running: Semaphore::new(RUNNING),
            waiting: Semaphore::new(WAITING),
        })
    }

    pub(super) async fn verify(
        &self,
        hashes: &Hashes,
        user: &str,
        password: Vec<u8>,
        from: IpAddr,
    ) -> Verdict {
        let known = hashes.get(user);
        let hash = known.map_or_else(|| hashes.nobody(), str::to_owned);
        let pair = self.pair(user, &hash, &password);
        if known.is_some()
            && let Some(since) = lock(&self.right).get_mut(&pair)
            && since.elapsed() < REMEMBERED
        {
            *since = Instant::now();
            return Verdict::Right;
        }
        let who = (network(from), self.pair(user, "", b""));
        if let Some(seconds) = self.too_many(&who) {
            return Verdict::TooMany { seconds };
        }
        let Ok(_place) = self.waiting.try_acquire() else { return Verdict::TooMany { seconds: 1 } };
        // Never closed.
        let _turn = self.running.acquire().await;
        let check = move || bcrypt::verify(&password, &hash).unwrap_or(false);
        let right = tokio::task::spawn_blocking(check).await.unwrap_or(false);
        if right && known.is_some() {
            let mut memory = lock(&self.right);
            bound(&mut memory, |since| *since, REMEMBERED);
            memory.insert(pair, Instant::now());
            return Verdict::Right;
        }
        let mut memory = lock(&self.wrong);
        bound(&mut memory, |(_, since)| *since, WITHIN);
        let (tries, since) = memory.entry(who).or_insert_with(|| (0, Instant::now()));
        if since.elapsed() > WITHIN {
            (*tries, *since) = (0, Instant::now());
        }
        *tries += 1;
        Verdict::Wrong
    }

    fn pair(&self, user: &str, hash: &str, password: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), hash.as_bytes(), password] {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    /// How long an address has to wait with a user's name.
    fn too_many(&self, who: &Who) -> Option<u64> {
        let memory = lock(&self.wrong);
        let (tries, since) = memory.get(who)?;
        let left = WITHIN.checked_sub(since.elapsed())?;
        (*tries >= TRIES).then(|| left.as_secs() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `secret`, of cost 4.
    fn hashes() -> Hashes {
        let hash = bcrypt::hash_with_salt(b"secret", 4, *b"0123456789abcdef").unwrap();
        Hashes::of_htpasswd(&format!("# who may\n\nalice:{hash}\n")).unwrap()
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_password_is_right_or_wrong_and_not_tried_for_ever() {
        let (hashes, passwords) = (hashes(), Passwords::new().unwrap());
        let check = |user: &'static str, password: &'static str| {
            passwords.verify(&hashes, user, password.as_bytes().to_vec(), HERE)
        };
        assert_eq!(check("alice", "secret").await, Verdict::Right);
        assert_eq!(check("alice", "Secret").await, Verdict::Wrong);
        assert_eq!(check("alice", "").await, Verdict::Wrong);
        for _ in 2..TRIES {
            assert_eq!(check("alice", "guess").await, Verdict::Wrong);
        }
        assert!(matches!(check("alice", "guess").await, Verdict::TooMany { .. }));
        // Who was right lately is not kept out by others behind the same address, and is remembered anew; nor is
        // another user.
        let since = || *lock(&passwords.right).values().next().unwrap();
        let before = since();
        assert_eq!(check("alice", "secret").await, Verdict::Right);
        assert!(since() > before);
        assert_eq!(check("mallory", "secret").await, Verdict::Wrong);
        let elsewhere = passwords.verify(&hashes, "alice", b"guess".to_vec(), [192, 0, 2, 1].into()).await;
        assert_eq!(elsewhere, Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_user_that_is_gone_or_has_a_new_password_is_not_remembered() {
        let passwords = Passwords::new().unwrap();
        let verify =
            async |hashes: &Hashes| passwords.verify(hashes, "alice", b"secret".to_vec(), HERE).await;
        assert_eq!(verify(&hashes()).await, Verdict::Right);
        assert_eq!(verify(&Hashes::default()).await, Verdict::Wrong);
        let other = bcrypt::hash_with_salt(b"other", 4, *b"0123456789abcdef").unwrap().to_string();
        let changed = Hashes::of_htpasswd(&format!("alice:{other}")).unwrap();
        assert_eq!(verify(&changed).await, Verdict::Wrong);
    }

    #[test]
    fn nobody_is_checked_as_long_as_the_users() {
        assert!(hashes().nobody().starts_with("$2a$04$"));
        assert_eq!(Hashes::default().nobody(), NOBODY);
        assert!(HashParts::from_str(&hashes().nobody()).is_ok());
    }

    #[test]
    fn only_bcrypt_is_taken_and_no_secret_is_told() {
        let error = |text: &str| Hashes::of_htpasswd(text).unwrap_err();
        assert!(error("alice:$apr1$x$y").contains("\"alice\""));
        assert!(!error("alice:plain-secret").contains("plain-secret"));
        assert!(error("alice").contains("line 1"));
        let costly = NOBODY.replace("$10$", "$31$");
        assert!(error(&format!("alice:{costly}")).contains("cost 31"));
        assert!(error(&format!("alice:{NOBODY}\nalice:{NOBODY}")).contains("twice"));
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(network("192.0.2.1"), "192.0.2.1");
    }
}
