//! The query parameters of requests.

/// A query parameter: name, type, description.
pub(super) type Parameter = (&'static str, &'static str, &'static str);

pub(super) const PRETTY: Parameter = ("pretty", "string", "Whether the answer is indented.");
pub(super) const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "All: everything but the change itself is done.",
);
pub(super) const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "The name under which the changed fields are owned.",
);
pub(super) const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What is done about unknown and duplicate fields: Ignore, Warn or Strict.",
);
pub(super) const FORCE: Parameter = (
    "force",
    "boolean",
    "Apply takes over fields that others own.",
);
pub(super) const CHANGE: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
pub(super) const PATCH: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
pub(super) const GRACE: Parameter = (
    "gracePeriodSeconds",
    "integer",
    "How long the object has to end.",
);
pub(super) const IGNORE_BROKEN: Parameter = (
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "An object that cannot be read is deleted all the same.",
);
pub(super) const ORPHAN: Parameter = (
    "orphanDependents",
    "boolean",
    "Deprecated: use propagationPolicy.",
);
pub(super) const PROPAGATION: Parameter = (
    "propagationPolicy",
    "string",
    "What becomes of dependents: Orphan, Background or Foreground.",
);
pub(super) const DELETE: &[Parameter] =
    &[PRETTY, DRY_RUN, GRACE, IGNORE_BROKEN, ORPHAN, PROPAGATION];
/// What a list takes, and nothing else does.
pub(super) const SHARD: Parameter = (
    "shardSelector",
    "string",
    "Only the objects of one part of all.",
);
pub(super) const BOOKMARKS: Parameter = (
    "allowWatchBookmarks",
    "boolean",
    "A watch may send bookmarks.",
);
pub(super) const CONTINUE: Parameter = (
    "continue",
    "string",
    "Where the last part of the list ended.",
);
pub(super) const FIELDS: Parameter = ("fieldSelector", "string", "Only objects with these fields.");
pub(super) const LABELS: Parameter = ("labelSelector", "string", "Only objects with these labels.");
pub(super) const LIMIT: Parameter = ("limit", "integer", "How many objects are listed at most.");
pub(super) const VERSION: Parameter = ("resourceVersion", "string", "From which version on.");
pub(super) const VERSION_MATCH: Parameter = (
    "resourceVersionMatch",
    "string",
    "How the resource version is meant.",
);
pub(super) const INITIAL: Parameter = (
    "sendInitialEvents",
    "boolean",
    "A watch begins with the objects there are.",
);
pub(super) const TIMEOUT: Parameter = ("timeoutSeconds", "integer", "When the request ends.");
pub(super) const WATCH: Parameter = ("watch", "boolean", "Changes are streamed.");
pub(super) const LIST: &[Parameter] = &[
    PRETTY,
    BOOKMARKS,
    CONTINUE,
    FIELDS,
    LABELS,
    LIMIT,
    VERSION,
    VERSION_MATCH,
    INITIAL,
    SHARD,
    TIMEOUT,
    WATCH,
];
pub(super) const DELETE_COLLECTION: &[Parameter] = &[
    PRETTY,
    CONTINUE,
    DRY_RUN,
    FIELDS,
    GRACE,
    IGNORE_BROKEN,
    LABELS,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    VERSION,
    VERSION_MATCH,
    INITIAL,
    SHARD,
    TIMEOUT,
];

pub(super) const CONTAINER: Parameter = ("container", "string", "Which container of the pod.");
pub(super) const STREAMS: [Parameter; 4] = [
    ("stderr", "boolean", "Whether stderr is streamed."),
    ("stdin", "boolean", "Whether stdin is streamed."),
    ("stdout", "boolean", "Whether stdout is streamed."),
    ("tty", "boolean", "Whether there is a terminal."),
];
pub(super) const ATTACH: &[Parameter] =
    &[CONTAINER, STREAMS[0], STREAMS[1], STREAMS[2], STREAMS[3]];
pub(super) const EXEC: &[Parameter] = &[
    ("command", "string", "What is run, a word each."),
    CONTAINER,
    STREAMS[0],
    STREAMS[1],
    STREAMS[2],
    STREAMS[3],
];
pub(super) const LOG_STREAM: Parameter = ("stream", "string", "All, Stdout or Stderr.");
pub(super) const LOG: &[Parameter] = &[
    PRETTY,
    CONTAINER,
    ("follow", "boolean", "What comes later is sent, too."),
    (
        "insecureSkipTLSVerifyBackend",
        "boolean",
        "The kubelet's certificate is not checked.",
    ),
    ("limitBytes", "integer", "How many bytes are sent at most."),
    ("previous", "boolean", "The log of the run before."),
    ("sinceSeconds", "integer", "Only lines of the last seconds."),
    LOG_STREAM,
    (
        "tailLines",
        "integer",
        "How many of the last lines are sent.",
    ),
    ("timestamps", "boolean", "Each line begins with its time."),
];

pub(super) fn connect_parameters(name: &str) -> &'static [Parameter] {
    match name {
        "attach" => ATTACH,
        "exec" => EXEC,
        "log" => LOG,
        "portforward" => &[("ports", "integer", "The ports of the pod.")],
        "proxy" => &[("path", "string", "The path at the other end.")],
        _ => &[],
    }
}
