// The language of the page, links to the other languages, and buttons that copy.
(() => {
  const languages = window.pageLanguages; // the first one has no name in its address
  const parts = location.pathname.replace(/\/$/, "").split("/");
  const named = languages.includes(parts.at(-1)) ? parts.pop() : "";
  const root = parts.join("/");
  const chosen = new URLSearchParams(location.search).has("lang");
  const wanted = (navigator.languages || [navigator.language])
    .map((one) => one.split("-")[0])
    .find((one) => languages.includes(one));
  const address = (language) => `${root}/${language === languages[0] ? "" : language}`;
  if (!named && !chosen && wanted && wanted !== languages[0]) {
    location.replace(address(wanted));
    return;
  }
  document.documentElement.lang = named || languages[0];
  document.addEventListener("click", (click) => {
    const link = click.target.closest("a[data-language]");
    if (link) {
      click.preventDefault();
      location.assign(`${address(link.dataset.language)}?lang=${link.dataset.language}`);
    }
    const copy = click.target.closest("button[data-copy]");
    if (copy) {
      navigator.clipboard?.writeText(copy.dataset.copy).then(() => {
        copy.textContent = copy.dataset.done;
      });
    }
  });
})();
