//! Whole builds on an executor that makes layers of words.

use std::sync::{Arc, Mutex};

use hull_oci::Digest;

use super::*;
use crate::executor::{Copy, Folder, Known, Left, Run, Selection, Source};
use crate::progress::Output;

#[derive(Default)]
struct Words {
    kept: Mutex<HashMap<Digest, Known>>,
    asked: Mutex<Vec<String>>,
}

impl Words {
    fn layer(&self, word: String) -> Option<Layer> {
        let layer = Layer { diff_id: Digest::sha256(word.as_bytes()), size: 1 };
        self.asked.lock().unwrap().push(word);
        Some(layer)
    }
}

impl Executor for Words {
    async fn image(&self, wanted: Wanted) -> Result<Base, Failure> {
        let name = wanted.reference.familiar();
        if name == "nosuch:latest" {
            return Err(Failure::Missing(format!("no such image: {name}")));
        }
        let layers = Vec::from_iter(self.layer(name));
        let mut config = Config::default();
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        Ok(Base { id: Digest::sha256(b"id"), config, layers })
    }

    async fn run(&self, run: Run, _output: Output) -> Result<Option<Layer>, Failure> {
        match run.arguments.last().map(String::as_str) {
            Some("false") => Err(Failure::Exit { code: 1, left: Left::default() }),
            _ => Ok(self.layer(run.arguments.join(" "))),
        }
    }

    async fn copy(&self, copy: Copy) -> Result<Option<Layer>, Failure> {
        Ok(self.layer(format!("copy to {} {:?}", copy.destination, copy.newest)))
    }

    async fn folder(&self, folder: Folder) -> Result<Option<Layer>, Failure> {
        Ok(self.layer(format!("folder {}", folder.path)))
    }

    async fn fingerprint(&self, source: Source, _selection: Selection) -> Result<Digest, Failure> {
        Ok(Digest::sha256(format!("{source:?}").as_bytes()))
    }
}

impl Cache for Words {
    async fn find(&self, key: &Digest) -> Option<Known> {
        self.kept.lock().unwrap().get(key).cloned()
    }

    async fn keep(&self, key: Digest, known: Known, _description: String) {
        self.kept.lock().unwrap().insert(key, known);
    }
}

async fn built(words: &Words, dockerfile: &str, now: &str, epoch: &str) -> Result<Built, BuildError> {
    let mut options = Options::default();
    options.arguments.insert("SOURCE_DATE_EPOCH".into(), epoch.into());
    let request = Request {
        dockerfile: dockerfile.into(),
        options,
        parallel: 2,
        now: format!("{now}-01-01T00:00:00Z"),
        rows: false,
    };
    build(&request, words, words, &Running::default(), Arc::new(|_| {})).await
}

#[tokio::test]
async fn an_image_out_of_the_cache_has_the_same_configuration() {
    let words = Words::default();
    let text = "FROM scratch\nLABEL a=b\nCOPY a /\nRUN make\nCMD x\n";
    let first = built(&words, text, "2025", "").await.unwrap();
    let second = built(&words, text, "2026", "").await.unwrap();
    assert_eq!(first.config, second.config);
    assert_eq!(first.config.created.as_deref(), Some("2025-01-01T00:00:00Z"));
    assert_eq!(first.layers.len(), 2);
    let diff_ids: Vec<_> = first.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    assert_eq!(first.config.rootfs.diff_ids, diff_ids);
    assert_eq!(words.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn source_date_epoch_is_the_time_of_all() {
    let words = Words::default();
    let text = "FROM base\nCOPY a /\nCMD x\n";
    let built = built(&words, text, "2025", "86400").await.unwrap();
    let times: Vec<_> = built.config.history.iter().map(|past| past.created.clone().unwrap()).collect();
    assert_eq!(times, ["1970-01-02T00:00:00Z", "1970-01-02T00:00:00Z"]);
    assert!(words.asked.lock().unwrap().contains(&"copy to / Some(86400)".to_owned()));
}

#[tokio::test]
async fn errors_say_where() {
    let words = Words::default();
    match built(&words, "FROM base\nNOPE\nEXPOSE\n", "2025", "").await.unwrap_err() {
        BuildError::Dockerfile(problems) => assert_eq!(problems.len(), 2),
        error => panic!("{error:?}"),
    }
    match built(&words, "FROM base AS a\nFROM nosuch\nCOPY --from=a / /\n", "2025", "").await.unwrap_err() {
        BuildError::Image { line, failure, .. } => {
            assert_eq!((line, failure.to_string().as_str()), (2, "no such image: nosuch:latest"));
        }
        error => panic!("{error:?}"),
    }
    let error = built(&words, "FROM base\nRUN true\nRUN false\n", "2025", "").await.unwrap_err();
    let text = "process \"/bin/sh -c false\" did not complete successfully: exit code: 1";
    assert_eq!(error.to_string(), text);
    match error {
        BuildError::Step(error) => {
            assert_eq!((error.lines.clone(), error.name.as_str()), (3..=3, "[3/3] RUN false"));
            assert_eq!(error.below.unwrap().layers().len(), 2);
        }
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn checks_warn_or_end_the_build() {
    let words = Words::default();
    let text = "FROM scratch as A\nCOPY secret /\n";
    let options = Options { ignore: hull_context::Ignore::parse(b"secret").unwrap(), ..Options::default() };
    let request = |text: &str| Request {
        dockerfile: text.into(),
        options: options.clone(),
        parallel: 1,
        now: "2025-01-01T00:00:00Z".into(),
        rows: false,
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let report = {
        let told = Arc::clone(&told);
        Arc::new(move |progress| {
            if let Progress::Warning { message, .. } = progress {
                told.lock().unwrap().push(message);
            }
        })
    };
    build(&request(text), &words, &words, &Running::default(), report.clone()).await.unwrap();
    let told = told.lock().unwrap().clone();
    let names: Vec<_> = told.iter().filter_map(|message| message.split(':').next()).collect();
    assert_eq!(names, ["FromAsCasing", "StageNameCasing", "CopyIgnoredFile"]);
    assert!(told[0].ends_with("(line 1)"), "{told:?}");
    let checked = async |text: &str| check(&request(text), &words).await;
    assert_eq!(checked(text).await.unwrap().warnings.len(), 3);
    let (missing, wrong) = ("FROM nosuch AS A\nRUN $X\n", "FROM scratch\nCOPY --from=3 a /\n");
    let Checked { warnings, error } = checked(missing).await.unwrap();
    assert_eq!((warnings.len(), error), (1, false), "of an image that is not here nothing is known");
    assert!(checked(wrong).await.is_err(), "what cannot be planned cannot be built");
    let strict = format!("# check=error=true;skip=FromAsCasing\n{text}");
    let error = build(&request(&strict), &words, &words, &Running::default(), report).await.unwrap_err();
    assert_eq!(error.to_string(), "lint violation found for rules: CopyIgnoredFile, StageNameCasing");
    assert!(checked(&strict).await.unwrap().error);
    let given = |value: &str| {
        let mut request = request(&strict);
        request.options.arguments.insert("BUILDKIT_DOCKERFILE_CHECK".into(), value.into());
        request
    };
    let all = check(&given("skip=all"), &words).await.unwrap();
    assert_eq!((all.warnings.len(), all.error), (0, false), "an argument says it instead of the file");
    assert!(check(&given("skip"), &words).await.is_err());
}
