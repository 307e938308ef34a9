// The list of queries, a page at a time. Without scripts they stand in groups that open.
const PAGE = 10;
const [list, kind, words, shown, previous, next] =
  ["queries", "kind", "words", "shown", "previous", "next"].map((id) => document.getElementById(id));
const queries = [...list.querySelectorAll(".query")];
const texts = queries.map((query) => query.textContent.toLowerCase());
let page = 0;

function show() {
  const wanted = words.value.toLowerCase().split(/\s+/);
  const found = queries.filter((query, i) =>
    (!kind.value || query.dataset.kind === kind.value) && wanted.every((word) => texts[i].includes(word)));
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE));
  shown.textContent = `Page ${page + 1} of ${pages}, ${found.length} queries found`;
  previous.disabled = page === 0;
  next.disabled = page === pages - 1;
}

function restart() { page = 0; show(); }
function turn(by) { page += by; show(); list.scrollIntoView({ block: "nearest" }); }

kind.addEventListener("change", restart);
words.addEventListener("input", restart);
previous.addEventListener("click", () => turn(-1));
next.addEventListener("click", () => turn(1));
document.getElementById("controls").hidden = document.getElementById("pages").hidden = false;
show();
