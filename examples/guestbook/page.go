package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

//go:embed page.html
var pageHTML string

// shown is how many entries a page shows, the newest first.
const shown = 50

// page is the web page, and passes entries on to the stores.
type page struct {
	http.Handler
	stores   []string // URLs
	client   *http.Client
	template *template.Template
}

func newPage(stores []string) *page {
	p := &page{
		stores:   stores,
		client:   &http.Client{Timeout: 3 * time.Second},
		template: template.Must(template.New("page").Parse(pageHTML)),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /{$}", p.show)
	mux.HandleFunc("POST /{$}", p.sign)
	mux.HandleFunc("GET /burn", burn)
	p.Handler = mux
	return p
}

// show lists what all stores hold. A store that does not answer is named on the page.
func (p *page) show(w http.ResponseWriter, r *http.Request) {
	view := struct {
		Pod, Node string
		Entries   []entry
		Count     int
		Missing   []string
	}{Pod: os.Getenv("HOSTNAME"), Node: os.Getenv("NODE")}
	for _, store := range p.stores {
		entries, err := p.read(r.Context(), store)
		if err != nil {
			view.Missing = append(view.Missing, err.Error())
		}
		view.Entries = append(view.Entries, entries...)
	}
	slices.SortFunc(view.Entries, func(a, b entry) int { return b.At.Compare(a.At) })
	view.Count = len(view.Entries)
	view.Entries = view.Entries[:min(shown, view.Count)]
	var body bytes.Buffer
	if err := p.template.Execute(&body, view); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = body.WriteTo(w) // an error is the client's having gone
}

func (p *page) read(ctx context.Context, store string) (entries []entry, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, store+"/entries", nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", store, resp.Status)
	}
	err = json.NewDecoder(resp.Body).Decode(&entries)
	return entries, err
}

// sign puts an entry into the store that its writer's name chooses.
func (p *page) sign(w http.ResponseWriter, r *http.Request) {
	e := entry{Name: strings.TrimSpace(r.PostFormValue("name")), Message: strings.TrimSpace(r.PostFormValue("message"))}
	if err := e.check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := json.Marshal(e)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	resp, err := p.client.Post(choose(p.stores, e.Name)+"/entries", "application/json", bytes.NewReader(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		http.Error(w, string(why), resp.StatusCode)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func choose(stores []string, name string) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name)) // has no errors
	return stores[hash.Sum32()%uint32(len(stores))]
}

// burn keeps a CPU busy for a second, so that one can watch the autoscaler.
func burn(w http.ResponseWriter, _ *http.Request) {
	end, turns := time.Now().Add(time.Second), 0
	for ; time.Now().Before(end); turns++ {
	}
	fmt.Fprintln(w, turns)
}

// sign writes into the book through the page, as a reader would, and tries for half a
// minute: the page may not be up yet.
func sign(ctx context.Context, name, message string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	address := cmp.Or(os.Getenv("PAGE"), "http://page/")
	client := &http.Client{Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for {
		err := post(ctx, client, address, url.Values{"name": {name}, "message": {message}})
		if err == nil {
			fmt.Printf("guestbook: signed as %s\n", name)
			return nil
		}
		fmt.Fprintln(os.Stderr, "guestbook:", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("signing at %s: %w", address, err)
		case <-time.After(time.Second):
		}
	}
}

func post(ctx context.Context, client *http.Client, address string, form url.Values) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s: %s", resp.Status, why)
	}
	return nil
}
