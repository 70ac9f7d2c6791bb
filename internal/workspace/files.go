package workspace

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// File is an uploaded file. A snippet is a file with text.
type File struct {
	ID          string // "F…"
	Name        string
	Title       string
	SnippetType string // a syntax, such as "text"; empty unless asked for
	AltText     string
	Content     []byte // not to be changed
}

// upload is a file being uploaded.
type upload struct {
	file   File
	length int
	got    bool
	done   bool // completeUploadExternal was called
}

// fileJSON is Slack's file object.
// https://docs.slack.dev/reference/objects/file-object
func (w *Workspace) fileJSON(f *File) object {
	return object{
		"id": f.ID, "name": f.Name, "title": f.Title, "size": len(f.Content), "mode": "snippet",
		"mimetype": "text/plain", "filetype": f.SnippetType, "user": w.opts.App.BotUserID,
		"url_private": w.base + "/files-pri/" + f.ID + "/" + f.Name,
		"permalink":   "https://" + w.opts.TeamDomain + ".slack.com/files/" + w.opts.App.BotUserID + "/" + f.ID + "/" + f.Name,
	}
}

// https://docs.slack.dev/reference/methods/files.getUploadURLExternal
func (w *Workspace) filesGetUploadURL(r *request) (object, *apiError) {
	var absent []string
	for _, f := range []string{"filename", "length"} {
		if r.str(f) == "" {
			absent = append(absent, f)
		}
	}
	if len(absent) > 0 {
		return nil, missing(absent...)
	}
	n, err := strconv.Atoi(r.str("length"))
	switch {
	case err != nil || n <= 0:
		return nil, refuse("invalid_arguments", "must be greater than or equal to 1 [json-pointer:/length]")
	case n > maxBody:
		return nil, refuse("file_upload_size_restricted")
	case utf8.RuneCountInString(r.str("alt_txt")) > 1000:
		return nil, refuse("alt_txt_too_large")
	case r.str("snippet_type") != "" && n > 1<<20:
		return nil, refuse("snippet_too_large")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := File{
		ID: w.nextID("F"), Name: path.Base(r.str("filename")), Title: r.str("filename"),
		SnippetType: r.str("snippet_type"), AltText: r.str("alt_txt"),
	}
	key := secret()
	w.uploads[key] = &upload{file: f, length: n}
	return object{"upload_url": w.base + "/upload/v1/" + key, "file_id": f.ID}, nil
}

// serveUpload takes a file's content, as the body or as a multipart field. The
// answer is "OK - " and the size; a size other than announced is refused (not
// documented).
// https://docs.slack.dev/messaging/working-with-files#upload
func (w *Workspace) serveUpload(r *http.Request, body []byte, _ *Call) answer {
	content := body
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "multipart/form-data" {
		r.Body = io.NopCloser(bytes.NewReader(body))
		if err := r.ParseMultipartForm(maxBody); err != nil {
			return textAnswer(http.StatusBadRequest, "invalid form data")
		}
		content = nil
		for _, headers := range r.MultipartForm.File {
			f, err := headers[0].Open()
			if err != nil {
				return textAnswer(http.StatusInternalServerError, "cannot read")
			}
			content, err = io.ReadAll(f)
			_ = f.Close()
			if err != nil {
				return textAnswer(http.StatusInternalServerError, "cannot read")
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.uploads[r.PathValue("secret")]
	switch {
	case u == nil || u.done:
		return textAnswer(http.StatusNotFound, "no such upload")
	case len(content) != u.length:
		return textAnswer(http.StatusBadRequest, "the size is not the length announced")
	}
	u.file.Content, u.got = content, true
	return textAnswer(http.StatusOK, "OK - "+strconv.Itoa(len(content)))
}

// filesCompleteUpload shares uploaded files in a channel, or in a thread, as one
// message. Real Slack posts it a moment later.
// https://docs.slack.dev/reference/methods/files.completeUploadExternal
func (w *Workspace) filesCompleteUpload(r *request) (object, *apiError) {
	raw := r.raw("files")
	if raw == nil {
		return nil, missing("files")
	}
	var wanted []struct {
		ID    string `json:"id"`
		Title string `json:"title"`
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&wanted); err != nil || len(wanted) == 0 {
		return nil, refuse("invalid_arguments", "must provide at least 1 items [json-pointer:/files]")
	}
	w.mu.Lock()
	defer w.mu.Unlock()

	var found []*upload
	for _, f := range wanted {
		for _, u := range w.uploads {
			if u.file.ID == f.ID && u.got && !u.done && !slices.Contains(found, u) {
				found = append(found, u)
				if f.Title != "" {
					u.file.Title = f.Title
				}
			}
		}
	}
	if len(found) != len(wanted) {
		return nil, refuse("file_not_found")
	}

	var refs []string
	if c := r.str("channel_id"); c != "" {
		refs = append(refs, c)
	}
	refs = append(refs, strings.FieldsFunc(r.str("channels"), func(c rune) bool { return c == ',' })...)
	var channels []*Channel
	for _, ref := range refs {
		c := w.channels[ref]
		switch {
		case c == nil, c.Private && !c.HasApp:
			return nil, refuse("channel_not_found")
		case c.Archived:
			return nil, refuse("is_archived")
		case !c.HasApp:
			return nil, refuse("not_in_channel") // files do not go to channels the app is not in
		}
		channels = append(channels, c)
	}
	if len(channels) > 1 && r.str("thread_ts") != "" {
		return nil, refuse("invalid_arguments") // a thread is in one channel; wording not documented
	}
	body, refusal := w.parseContent(r.str("initial_comment"), true, r.raw("blocks"), nil)
	if refusal != nil {
		return nil, refusal
	}
	for _, c := range channels {
		if wait := w.limits.post(c.ID, r.now); wait > 0 {
			return nil, &apiError{code: "ratelimited", wait: wait}
		}
	}

	var files []File
	out := []object{}
	for _, u := range found {
		u.done = true
		files = append(files, u.file)
		w.files[u.file.ID] = &u.file
		out = append(out, w.fileJSON(&u.file))
	}
	for _, c := range channels {
		m := w.appMessage(c, body)
		m.Files = files
		m.ThreadTS = w.threadOf(c, r.str("thread_ts"))
		w.post(m)
	}
	return object{"files": out}, nil
}

// serveFile is a file's url_private, for holders of the bot token.
func (w *Workspace) serveFile(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	f := w.files[r.PathValue("id")]
	w.mu.Unlock()
	if f == nil || r.Header.Get("Authorization") != "Bearer "+w.opts.App.BotToken {
		http.NotFound(rw, r)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = rw.Write(f.Content)
}
