"""Every bound of the API in one place (PROTOCOL 1.2, 1.3, 2.5, 8). Units are in the names."""

REQUEST_CHARS_BEFORE_LOGIN_MAX = 8_192
REQUEST_CHARS_MAX = 65_536
REQUEST_BYTES_MAX = 4 * REQUEST_CHARS_MAX  # a character is up to four bytes of UTF-8
JSON_DEPTH_MAX = 64

CALLS_RUNNING_MAX = 10  # per connection
CALLS_OUTSTANDING_MAX = 20  # running and waiting, per connection
SUBSCRIPTIONS_MAX = 200  # per connection
UNSENT_BYTES_MAX = 8 << 20  # per connection: a client that reads slower than this is cut off

REQUEST_HEAD_TIMEOUT_S = 10  # from connecting, or from the last answer, to the end of a request's headers
TLS_HANDSHAKE_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 30  # a short HTTP answer, written out
IDLE_BEFORE_LOGIN_TIMEOUT_S = 600  # a websocket that asks for nothing and never logs in
HEARTBEAT_S = 30  # websocket pings; half of it later without a sign of life the connection is dropped
CLOSE_TIMEOUT_S = 2  # for the client's half of the closing handshake
SWEEP_INTERVAL_S = 5

UPLOAD_ENVELOPE_BYTES_MAX = REQUEST_CHARS_MAX  # the `data` part
UPLOAD_FILES_MAX = 5
UPLOAD_BYTES_MAX = 16 << 30
TRANSFER_IDLE_TIMEOUT_S = 60  # an upload or download that stands still
TRANSFER_CHUNK_BYTES = 256 << 10
DOWNLOAD_BEGIN_TIMEOUT_S = 60
DOWNLOAD_BEGIN_BUFFERED_TIMEOUT_S = 3600
DOWNLOAD_BUFFERED_BYTES_MAX = 256 << 20
DOWNLOAD_TOKEN_TTL_S = 300

QUERY_DEPTH_MAX = 3
QUERY_ROWS_MAX = 10_000
PATTERN_BYTES_MAX = 1 << 20  # compiled size of a regular expression
