package workspace

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody is how much of a request is read: more than any message, and files up
// to 64 MiB.
const maxBody = 64 << 20

// Call is one request of the app: to the Web API, to a response URL
// ("response_url") or an upload ("upload"). Tokens are left out.
type Call struct {
	Method   string
	At       time.Time
	Args     map[string]string // objects as JSON
	Status   int               // HTTP; 0 while under way, or when the connection was dropped
	Error    string            // Slack's error code; empty when ok
	Injected bool              // answered by FailNext or Outage
}

// Calls returns the calls of method so far, oldest first; all of them when
// method is empty.
func (w *Workspace) Calls(method string) []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Call
	for _, c := range w.calls {
		if method == "" || c.Method == method {
			cc := *c
			cc.Args = maps.Clone(c.Args)
			out = append(out, cc)
		}
	}
	return out
}

// Failure is how a call fails, see [Workspace.FailNext]. The fields combine: the
// call is carried out if Applied, waits for Delay, and is then answered by Drop,
// Status or Error. With only a Delay it is slow and otherwise as usual.
type Failure struct {
	Status     int           // HTTP status; 200 when zero
	Error      string        // Slack's error code, as {"ok":false,"error":…}
	RetryAfter time.Duration // sent as Retry-After when Status is 429; 1 s at least
	Delay      time.Duration // in real time; the call hangs until the app gives up when negative
	Drop       bool          // the connection is closed without an answer
	Applied    bool          // what was asked for happens nevertheless: only the answer is lost
}

// FailNext makes the next n calls of method fail. Method is a Web API method,
// "response_url" or "upload". Failures queue up: those of a second FailNext
// follow those of the first.
func (w *Workspace) FailNext(method string, n int, f Failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		w.failures[method] = append(w.failures[method], f)
	}
}

// outage is a failure of all calls of a method for some time.
type outage struct {
	method  string // "" is every method
	until   time.Time
	failure Failure
}

// Outage makes every call of method fail like f for a time by the workspace's clock,
// or with a d of 0 until end is called, which ends it early too. Method is one of
// FailNext's, or "" for all of them, uploads and response URLs included. What FailNext
// ordered comes first, and of two outages the newer.
func (w *Workspace) Outage(method string, d time.Duration, f Failure) (end func()) {
	o := &outage{method: method, failure: f}
	if d > 0 {
		o.until = w.clock().Add(d)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outages = append(w.outages, o)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.outages = slices.DeleteFunc(w.outages, func(other *outage) bool { return other == o })
	}
}

// failure returns how a call of method is to fail, nil when it is not. w.mu is held.
func (w *Workspace) failure(method string, now time.Time) *Failure {
	if q := w.failures[method]; len(q) > 0 {
		w.failures[method] = q[1:]
		return &q[0]
	}
	w.outages = slices.DeleteFunc(w.outages, func(o *outage) bool { return !o.until.IsZero() && !now.Before(o.until) })
	for _, o := range slices.Backward(w.outages) {
		if o.method == "" || o.method == method {
			return &o.failure
		}
	}
	return nil
}

// apiError is a refusal of the Web API.
type apiError struct {
	code     string
	messages []string      // response_metadata.messages, without the "[ERROR] "
	needed   string        // for missing_scope
	wait     time.Duration // for ratelimited
}

func (e *apiError) Error() string { return e.code }

// refuse returns a refusal with one of Slack's error codes.
func refuse(code string, messages ...string) *apiError {
	return &apiError{code: code, messages: messages}
}

// missing is how Slack refuses a call without a required argument.
func missing(fields ...string) *apiError {
	e := refuse("invalid_arguments")
	for _, f := range fields {
		e.messages = append(e.messages, "missing required field: "+f)
	}
	return e
}

// object is a JSON object in a response.
type object = map[string]any

// method is one method of the Web API.
type method struct {
	call   func(*Workspace, *request) (object, *apiError)
	scopes []string // any one of them; none when empty
	tier   int      // 1 to 4; 0 is never limited
	json   bool     // accepts application/json; the others ignore such a body
	app    bool     // called with an app-level token
}

// methods are the methods served, with the facts of each one's page below
// https://docs.slack.dev/reference/methods/.
var methods = map[string]method{
	"apps.connections.open":        {call: (*Workspace).appsConnectionsOpen, tier: 1, json: true, app: true},
	"auth.test":                    {call: (*Workspace).authTest, json: true},
	"bots.info":                    {call: (*Workspace).botsInfo, scopes: []string{"users:read"}, tier: 3},
	"chat.delete":                  {call: (*Workspace).chatDelete, scopes: []string{"chat:write"}, tier: 3, json: true},
	"chat.getPermalink":            {call: (*Workspace).chatGetPermalink},
	"chat.postEphemeral":           {call: (*Workspace).chatPostEphemeral, scopes: []string{"chat:write"}, tier: 4, json: true},
	"chat.postMessage":             {call: (*Workspace).chatPostMessage, scopes: []string{"chat:write"}, json: true},
	"chat.update":                  {call: (*Workspace).chatUpdate, scopes: []string{"chat:write"}, tier: 3, json: true},
	"conversations.history":        {call: (*Workspace).conversationsHistory, scopes: historyScopes, tier: 3, json: true},
	"conversations.info":           {call: (*Workspace).conversationsInfo, scopes: readScopes, tier: 3},
	"conversations.open":           {call: (*Workspace).conversationsOpen, scopes: []string{"im:write", "mpim:write"}, tier: 3, json: true},
	"files.completeUploadExternal": {call: (*Workspace).filesCompleteUpload, scopes: []string{"files:write"}, tier: 4, json: true},
	"files.getUploadURLExternal":   {call: (*Workspace).filesGetUploadURL, scopes: []string{"files:write"}, tier: 4},
	"team.info":                    {call: (*Workspace).teamInfo, scopes: []string{"team:read"}, tier: 3},
	"usergroups.list":              {call: (*Workspace).usergroupsList, scopes: []string{"usergroups:read"}, tier: 2},
	"usergroups.users.list":        {call: (*Workspace).usergroupsUsersList, scopes: []string{"usergroups:read"}, tier: 2},
	"users.info":                   {call: (*Workspace).usersInfo, scopes: []string{"users:read"}, tier: 4},
	"users.list":                   {call: (*Workspace).usersList, scopes: []string{"users:read"}, tier: 2},
	"views.open":                   {call: (*Workspace).viewsOpen, tier: 4, json: true},
	"views.push":                   {call: (*Workspace).viewsPush, tier: 4, json: true},
	"views.update":                 {call: (*Workspace).viewsUpdate, tier: 4, json: true},
}

var (
	readScopes    = []string{"channels:read", "groups:read", "im:read", "mpim:read"}
	historyScopes = []string{"channels:history", "groups:history", "im:history", "mpim:history"}
)

// routes builds the handler of everything Slack serves.
func (w *Workspace) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/api/{method}", func(rw http.ResponseWriter, r *http.Request) {
		w.serveCall(rw, r, r.PathValue("method"), w.serveAPI)
	})
	mux.HandleFunc("POST /commands/{team}/{id}/{secret}", func(rw http.ResponseWriter, r *http.Request) {
		w.serveCall(rw, r, "response_url", w.serveResponseURL)
	})
	mux.HandleFunc("POST /actions/{team}/{id}/{secret}", func(rw http.ResponseWriter, r *http.Request) {
		w.serveCall(rw, r, "response_url", w.serveResponseURL)
	})
	mux.HandleFunc("POST /upload/v1/{secret}", func(rw http.ResponseWriter, r *http.Request) {
		w.serveCall(rw, r, "upload", w.serveUpload)
	})
	mux.HandleFunc("GET /files-pri/{id}/{name}", w.serveFile)
	mux.HandleFunc("GET /link/", w.serveSocket)
	return mux
}

// answer is a response that was decided on but not yet written.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    string // Slack's error code, for Call
}

// jsonAnswer is a 200 with v as its body.
func jsonAnswer(v any) answer {
	b, err := json.Marshal(v)
	if err != nil {
		// Only values of this package get here.
		panic(err)
	}
	return answer{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}, body: b}
}

// textAnswer is a plain text response.
func textAnswer(status int, text string) answer {
	return answer{status: status, header: http.Header{"Content-Type": {"text/html"}}, body: []byte(text)}
}

// serveCall records a call, applies what FailNext or Outage ordered for it, and otherwise
// has serve answer it.
func (w *Workspace) serveCall(rw http.ResponseWriter, r *http.Request, name string, serve func(*http.Request, []byte, *Call) answer) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
	if err != nil {
		http.Error(rw, "request_timeout", http.StatusRequestTimeout)
		return
	}

	call := &Call{Method: name, At: w.clock()}
	if name != "upload" {
		call.Args = recordedArgs(r, body)
	}
	w.mu.Lock()
	w.calls = append(w.calls, call)
	failure := w.failure(name, call.At)
	w.notify()
	w.mu.Unlock()

	var a answer
	if failure == nil {
		a = serve(r, body, call)
	} else if !w.fail(rw, r, body, call, *failure, serve, &a) {
		panic(http.ErrAbortHandler) // drops the connection
	}

	w.mu.Lock()
	call.Status, call.Error = a.status, a.err
	w.notify()
	w.mu.Unlock()
	for k, v := range a.header {
		rw.Header()[k] = v
	}
	rw.WriteHeader(a.status)
	_, _ = rw.Write(a.body) // the app may have gone
}

// fail carries out f. It reports false when the connection is to be dropped.
func (w *Workspace) fail(rw http.ResponseWriter, r *http.Request, body []byte, call *Call, f Failure, serve func(*http.Request, []byte, *Call) answer, a *answer) bool {
	w.mu.Lock()
	call.Injected = true
	w.mu.Unlock()

	if f.Applied {
		*a = serve(r, body, call)
	}
	if f.Delay != 0 {
		var late <-chan time.Time // never, when negative
		if f.Delay > 0 {
			t := time.NewTimer(f.Delay)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-late:
		case <-r.Context().Done():
			return false
		case <-w.closing:
			return false
		}
	}
	if !f.Applied && !f.Drop && f.Status == 0 && f.Error == "" {
		*a = serve(r, body, call) // only slow
	}
	switch {
	case f.Drop:
		return false
	case f.Error != "":
		*a = jsonAnswer(object{"ok": false, "error": f.Error})
		a.err = f.Error
		a.status = cmp.Or(f.Status, http.StatusOK)
	case f.Status == http.StatusTooManyRequests:
		*a = jsonAnswer(object{"ok": false, "error": "ratelimited"})
		a.err = "ratelimited"
		a.status = f.Status
	case f.Status != 0:
		*a = textAnswer(f.Status, "<html><body>"+http.StatusText(f.Status)+"</body></html>")
	}
	if f.Status == http.StatusTooManyRequests {
		a.header.Set("Retry-After", strconv.Itoa(retryAfter(f.RetryAfter)))
	}
	return true
}

// request is a call of the Web API with its arguments.
type request struct {
	method string
	args   map[string]any // strings of a form; anything of a JSON body
	token  string
	scopes []string
	now    time.Time
}

// serveAPI answers a call of the Web API.
func (w *Workspace) serveAPI(r *http.Request, body []byte, call *Call) answer {
	name := call.Method
	m, known := methods[name]
	if !known {
		a := jsonAnswer(object{"ok": false, "error": "unknown_method", "req_method": name})
		a.err = "unknown_method"
		return a
	}
	req := &request{method: name, scopes: w.opts.App.Scopes, now: call.At}
	result, warnings, refusal := w.callMethod(r, body, m, req)
	if refusal != nil {
		return w.refusal(m, refusal)
	}
	if result == nil {
		result = object{}
	}
	result["ok"] = true
	if len(warnings) > 0 {
		result["warning"] = strings.Join(warnings, ",")
		md, _ := result["response_metadata"].(object)
		if md == nil {
			md = object{}
			result["response_metadata"] = md
		}
		md["warnings"] = warnings
	}
	a := jsonAnswer(result)
	a.header.Set("X-OAuth-Scopes", strings.Join(w.opts.App.Scopes, ","))
	a.header.Set("X-Accepted-OAuth-Scopes", strings.Join(m.scopes, ","))
	return a
}

// refusal writes e as Slack does: the error code, for a missing scope what was
// needed and provided, and the messages both with and without "[ERROR] ".
// https://docs.slack.dev/apis/web-api/#responses
func (w *Workspace) refusal(m method, e *apiError) answer {
	body := object{"ok": false, "error": e.code}
	if len(e.messages) > 0 {
		prefixed := make([]string, len(e.messages))
		for i, s := range e.messages {
			prefixed[i] = "[ERROR] " + s
		}
		body["response_metadata"] = object{"messages": prefixed}
		if e.code == "invalid_blocks" {
			body["errors"] = e.messages
		}
	}
	if e.code == "missing_scope" {
		body["needed"] = e.needed
		body["provided"] = strings.Join(w.opts.App.Scopes, ",")
	}
	a := jsonAnswer(body)
	a.err = e.code
	if e.code == "ratelimited" {
		a.status = http.StatusTooManyRequests
		a.header.Set("Retry-After", strconv.Itoa(retryAfter(e.wait)))
	}
	a.header.Set("X-OAuth-Scopes", strings.Join(w.opts.App.Scopes, ","))
	a.header.Set("X-Accepted-OAuth-Scopes", strings.Join(m.scopes, ","))
	return a
}

// callMethod checks the request, the token, the scopes and the rate, in this
// order, and calls the method.
func (w *Workspace) callMethod(r *http.Request, body []byte, m method, req *request) (object, []string, *apiError) {
	args, isJSON, warnings, refusal := parseArgs(r, body)
	if refusal != nil {
		return nil, nil, refusal
	}
	header := strings.TrimSpace(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer"))
	req.token = header
	if formToken, ok := args["token"].(string); ok && !isJSON && req.token == "" && r.URL.Query().Get("token") == "" {
		// A token in a JSON body or in the query string is not accepted.
		// https://docs.slack.dev/apis/web-api/#authentication
		req.token = formToken
	}
	delete(args, "token")
	if isJSON && !m.json {
		args = map[string]any{}
	}
	req.args = args

	app := w.opts.App
	switch {
	case req.token == "":
		return nil, nil, refuse("not_authed")
	case m.app && req.token == app.BotToken, !m.app && req.token == app.AppToken:
		return nil, nil, refuse("not_allowed_token_type")
	case m.app && req.token != app.AppToken, !m.app && req.token != app.BotToken:
		return nil, nil, refuse("invalid_auth")
	}
	if len(m.scopes) > 0 && !slices.ContainsFunc(m.scopes, req.has) {
		return nil, nil, &apiError{code: "missing_scope", needed: strings.Join(m.scopes, ",")}
	}
	if wait := w.limits.method(req.method, m.tier, req.now); wait > 0 {
		return nil, nil, &apiError{code: "ratelimited", wait: wait}
	}
	result, refusal := m.call(w, req)
	return result, warnings, refusal
}

// parseArgs reads the arguments of the query string and of the body, which may
// be a form, multipart or JSON.
// https://docs.slack.dev/apis/web-api/#POST_bodies
func parseArgs(r *http.Request, body []byte) (args map[string]any, isJSON bool, warnings []string, refusal *apiError) {
	args = make(map[string]any)
	add := func(v url.Values) {
		for k, vs := range v {
			args[k] = vs[0]
		}
	}
	add(r.URL.Query())
	if r.Method == http.MethodGet || len(body) == 0 {
		return args, false, nil, nil
	}
	ct := r.Header.Get("Content-Type")
	if ct == "" {
		return nil, false, nil, refuse("missing_post_type")
	}
	kind, params, err := mime.ParseMediaType(ct)
	if err != nil {
		return nil, false, nil, refuse("invalid_post_type")
	}
	switch charset := strings.ToLower(params["charset"]); charset {
	case "", "utf-8", "utf8", "iso-8859-1":
	default:
		return nil, false, nil, refuse("invalid_charset")
	}
	switch kind {
	case "application/x-www-form-urlencoded", "text/plain":
		v, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, false, nil, refuse("invalid_form_data")
		}
		add(v)
	case "multipart/form-data":
		rr := r.Clone(r.Context())
		rr.Body = io.NopCloser(bytes.NewReader(body))
		if err := rr.ParseMultipartForm(maxBody); err != nil {
			return nil, false, nil, refuse("invalid_form_data")
		}
		add(rr.MultipartForm.Value)
	case "application/json":
		if params["charset"] == "" {
			warnings = append(warnings, "missing_charset")
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		var m map[string]any
		if err := d.Decode(&m); err != nil {
			return nil, true, nil, refuse("invalid_json")
		}
		maps.Copy(args, m)
		return args, true, warnings, nil
	default:
		return nil, false, nil, refuse("invalid_post_type")
	}
	return args, false, nil, nil
}

// recordedArgs are a call's arguments for [Call]: everything but the token.
func recordedArgs(r *http.Request, body []byte) map[string]string {
	args, _, _, refusal := parseArgs(r, body)
	if refusal != nil {
		return nil
	}
	out := make(map[string]string, len(args))
	for k, v := range args {
		if k == "token" {
			continue
		}
		if s, ok := v.(string); ok {
			out[k] = s
		} else if b, err := json.Marshal(v); err == nil {
			out[k] = string(b)
		}
	}
	return out
}

// has reports whether the token has a scope.
func (r *request) has(scope string) bool { return slices.Contains(r.scopes, scope) }

// str returns a string argument, or "".
func (r *request) str(name string) string {
	switch v := r.args[name].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// given reports whether an argument was sent, empty or not.
func (r *request) given(name string) bool {
	v, ok := r.args[name]
	return ok && v != nil
}

// boolean returns a boolean argument: true, "true" or "1".
func (r *request) boolean(name string) bool {
	switch v := r.args[name].(type) {
	case bool:
		return v
	case string:
		return v == "1" || strings.EqualFold(v, "true")
	case json.Number:
		return v.String() == "1"
	}
	return false
}

// raw returns an argument that is JSON: an object or array of a JSON body, or a
// string holding one. It is nil when not sent or empty.
func (r *request) raw(name string) json.RawMessage {
	v, ok := r.args[name]
	if !ok || v == nil {
		return nil
	}
	if s, ok := v.(string); ok {
		if strings.TrimSpace(s) == "" {
			return nil
		}
		return json.RawMessage(s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

// https://docs.slack.dev/reference/methods/auth.test
func (w *Workspace) authTest(*request) (object, *apiError) {
	return object{
		"url":     "https://" + w.opts.TeamDomain + ".slack.com/",
		"team":    w.opts.TeamName,
		"team_id": w.opts.TeamID,
		"user":    w.opts.App.Name,
		"user_id": w.opts.App.BotUserID,
		"bot_id":  w.opts.App.BotID,

		"is_enterprise_install": false,
	}, nil
}

// https://docs.slack.dev/reference/methods/team.info
func (w *Workspace) teamInfo(*request) (object, *apiError) {
	return object{"team": object{
		"id": w.opts.TeamID, "name": w.opts.TeamName, "domain": w.opts.TeamDomain,
		"url":          "https://" + w.opts.TeamDomain + ".slack.com/",
		"email_domain": "", "icon": object{"image_default": true},
	}}, nil
}

// https://docs.slack.dev/reference/methods/bots.info
func (w *Workspace) botsInfo(r *request) (object, *apiError) {
	if id := r.str("bot"); id != "" && id != w.opts.App.BotID {
		return nil, refuse("bot_not_found")
	}
	return object{"bot": object{
		"id": w.opts.App.BotID, "deleted": false, "name": w.opts.App.Name, "updated": 0,
		"app_id": w.opts.App.ID, "user_id": w.opts.App.BotUserID, "icons": object{},
	}}, nil
}

// userJSON is Slack's user object. w.mu is held.
// https://docs.slack.dev/reference/objects/user-object
func (w *Workspace) userJSON(u *User) object {
	o := object{
		"id": u.ID, "team_id": u.TeamID, "name": u.Name, "deleted": u.Deleted,
		"profile": object{
			"real_name": u.RealName, "real_name_normalized": u.RealName,
			"display_name": u.Name, "display_name_normalized": u.Name, "team": u.TeamID,
		},
		"is_bot": u.IsBot, "is_app_user": false, "updated": 0,
	}
	if !u.Deleted { // a deactivated user has none of these
		maps.Copy(o, object{
			"real_name": u.RealName, "color": "9f69e7", "tz": u.TZ, "tz_label": u.TZ, "tz_offset": 0,
			"is_admin": u.IsAdmin, "is_owner": u.IsOwner, "is_primary_owner": u.IsPrimaryOwner,
			"is_restricted": u.IsRestricted, "is_ultra_restricted": u.IsUltraRestricted,
			"is_email_confirmed": true, "who_can_share_contact_card": "EVERYONE",
		})
	}
	return o
}

// https://docs.slack.dev/reference/methods/users.info
func (w *Workspace) usersInfo(r *request) (object, *apiError) {
	if r.str("user") == "" {
		return nil, missing("user")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.users[r.str("user")]
	if u == nil {
		return nil, refuse("user_not_found")
	}
	return object{"user": w.userJSON(u)}, nil
}

// https://docs.slack.dev/reference/methods/users.list and
// https://docs.slack.dev/apis/web-api/pagination
func (w *Workspace) usersList(r *request) (object, *apiError) {
	limit, err := strconv.Atoi(cmp.Or(r.str("limit"), "0"))
	if err != nil || limit < 0 || limit > 1000 {
		return nil, refuse("invalid_limit")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	start := 0
	if c := r.str("cursor"); c != "" {
		b, err := base64.StdEncoding.DecodeString(c)
		id, ok := strings.CutPrefix(string(b), "user:")
		start = slices.Index(w.order.users, id)
		if err != nil || !ok || start < 0 {
			return nil, refuse("invalid_cursor")
		}
	}
	page, next := w.order.users[start:], ""
	if limit > 0 && len(page) > limit {
		next = base64.StdEncoding.EncodeToString([]byte("user:" + page[limit]))
		page = page[:limit]
	}
	members := make([]object, len(page))
	for i, id := range page {
		members[i] = w.userJSON(w.users[id])
	}
	return object{"members": members, "cache_ts": r.now.Unix(), "response_metadata": object{"next_cursor": next}}, nil
}

// https://docs.slack.dev/reference/methods/usergroups.list
func (w *Workspace) usergroupsList(r *request) (object, *apiError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	groups := []object{}
	for _, id := range w.order.groups {
		g := w.groups[id]
		if g.Disabled && !r.boolean("include_disabled") {
			continue
		}
		o := object{
			"id": g.ID, "team_id": w.opts.TeamID, "is_usergroup": true, "is_subteam": true, "is_external": false,
			"name": g.Name, "handle": g.Handle, "description": "", "auto_type": nil,
			"date_create": 0, "date_update": 0, "date_delete": 0, "prefs": object{"channels": []string{}, "groups": []string{}},
		}
		if r.boolean("include_users") {
			o["users"] = g.Users
		}
		if r.boolean("include_count") {
			o["user_count"] = len(g.Users)
		}
		groups = append(groups, o)
	}
	return object{"usergroups": groups}, nil
}

// https://docs.slack.dev/reference/methods/usergroups.users.list
func (w *Workspace) usergroupsUsersList(r *request) (object, *apiError) {
	if r.str("usergroup") == "" {
		return nil, missing("usergroup")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.groups[r.str("usergroup")]
	switch {
	case g == nil:
		return nil, refuse("no_such_subteam")
	case g.Disabled && !r.boolean("include_disabled"):
		return nil, refuse("subteam_disabled") // not documented
	}
	return object{"users": append([]string{}, g.Users...)}, nil
}

// channelJSON is Slack's conversation object. w.mu is held.
// https://docs.slack.dev/reference/objects/conversation-object
func (w *Workspace) channelJSON(c *Channel) object {
	if c.IM {
		return object{"id": c.ID, "created": 0, "is_im": true, "is_org_shared": false, "user": c.Members[0], "is_archived": c.Archived, "is_open": true}
	}
	return object{
		"id": c.ID, "name": c.Name, "name_normalized": c.Name, "created": 0, "context_team_id": w.opts.TeamID,
		"is_channel": !c.Private, "is_group": c.Private, "is_im": false, "is_mpim": false, "is_private": c.Private,
		"is_archived": c.Archived, "is_general": c.Name == "general", "is_member": c.HasApp,
		"topic": object{"value": ""}, "purpose": object{"value": ""},
	}
}

// scopeFor is the scope that allows something, "read" or "history", in a kind of
// conversation.
func scopeFor(c *Channel, what string) string {
	switch {
	case c.IM:
		return "im:" + what
	case c.Private:
		return "groups:" + what
	}
	return "channels:" + what
}

// https://docs.slack.dev/reference/methods/conversations.info
func (w *Workspace) conversationsInfo(r *request) (object, *apiError) {
	if r.str("channel") == "" {
		return nil, missing("channel")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.channels[r.str("channel")]
	if c == nil || (c.Private || c.IM) && !c.HasApp {
		return nil, refuse("channel_not_found")
	}
	if needed := scopeFor(c, "read"); !r.has(needed) {
		return nil, &apiError{code: "missing_scope", needed: needed}
	}
	o := w.channelJSON(c)
	if r.boolean("include_num_members") {
		o["num_members"] = len(c.Members)
	}
	return object{"channel": o}, nil
}

// https://docs.slack.dev/reference/methods/conversations.open, for one user: no
// group messages.
func (w *Workspace) conversationsOpen(r *request) (object, *apiError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id := r.str("channel"); id != "" {
		c := w.channels[id]
		if c == nil || !c.IM {
			return nil, refuse("channel_not_found")
		}
		return object{"channel": object{"id": c.ID}}, nil
	}
	users := strings.FieldsFunc(r.str("users"), func(c rune) bool { return c == ',' || c == ' ' })
	switch {
	case len(users) == 0:
		return nil, refuse("users_list_not_supplied")
	case len(users) > 1:
		return nil, refuse("method_not_supported_for_channel_type") // group messages are not served
	}
	u := w.users[users[0]]
	switch {
	case u == nil:
		return nil, refuse("user_not_found")
	case u.Deleted:
		return nil, refuse("user_disabled")
	case u.IsBot || u.ID == SlackbotID:
		return nil, refuse("cannot_dm_bot")
	}
	c := w.openIM(u.ID)
	ch := object{"id": c.ID}
	if r.boolean("return_im") {
		ch = w.channelJSON(c)
	}
	return object{"channel": ch}, nil
}
