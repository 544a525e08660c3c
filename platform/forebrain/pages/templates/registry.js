const byId = (id) => document.getElementById(id);
const models = [...document.querySelectorAll("details.model")];
const fields = ["words", "species", "rate", "least", "order", "animal"].map(byId);

// Accents may be written as characters of their own.
function folded(text) {
  return text.toLowerCase().normalize("NFC");
}

function animalsLike(text) {
  const wanted = folded(text).split(/[\s/]+/).filter(Boolean);
  if (!wanted.length) return null;
  const found = new Set();
  ANIMALS.forEach(([dataset, subject], at) => {
    const name = folded(`${dataset}/${subject}`);
    if (wanted.every((word) => name.includes(word))) found.add(at);
  });
  return found;
}

function seenBy(name, animals) {
  const hits = [];
  for (const at of animals) if (SEEN[name].some(([first, last]) => first <= at && at <= last)) hits.push(at);
  return hits;
}

function tag(text, kind) {
  const span = document.createElement("span");
  span.className = `tag leak ${kind}`;
  span.textContent = text;
  return span;
}

function ratesFit(rates, rate) {
  return !rates.length || rates.some((known) => Math.abs(known - rate) <= 0.1 * known);
}

function show() {
  const [words, species, rate, least, order, animal] = fields.map((field) => field.value.trim());
  const animals = animalsLike(animal);
  let shown = 0, leaks = 0;
  for (const model of models) {
    const data = model.dataset;
    const fits = folded(words).split(/\s+/).every((word) => folded(data.text).includes(word))
      && (!species || JSON.parse(data.species).includes(species))
      && (!rate || ratesFit(JSON.parse(data.rates), Number(rate)))
      && (!least || (data.score !== "" && Number(data.score) >= Number(least)));
    model.classList.toggle("off", !fits);
    shown += fits;
    model.querySelectorAll(".leak").forEach((old) => old.remove());
    if (!animals || !fits) continue;
    const flags = model.querySelector(".flags"), hits = seenBy(data.name, animals);
    leaks += hits.length > 0;
    if (hits.length) {
      const names = hits.slice(0, 3).map((at) => ANIMALS[at].slice(0, 2).join("/")).join(", ");
      flags.append(tag(`was trained on ${names}${hits.length > 3 ? ` and ${hits.length - 3} more` : ""}`, "bad"));
    } else flags.append(tag("trained on no animal of that name", "good"));
  }
  byId("said").textContent = !models.length ? "" : animals
    ? leaks
      ? `${leaks} of the ${shown} models shown ${leaks === 1 ? "was" : "were"} trained on an animal of that name: scores on it would flatter them.`
      : `None of the ${shown} models shown was trained on an animal of that name. Names differ between laboratories, so try the data set's too.`
    : shown === models.length ? "" : `${shown} of ${models.length} models`;
  byId("nothing").classList.toggle("off", shown > 0 || !models.length);
  const value = (model) => model.dataset.score === "" ? -Infinity : Number(model.dataset.score);
  const before = {
    score: (a, b) => value(b) - value(a),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name),
    created: (a, b) => b.dataset.created.localeCompare(a.dataset.created),
  }[order];
  const leaky = (model) => model.querySelector(".leak.bad") !== null;
  byId("models").append(...models.sort((a, b) => leaky(b) - leaky(a) || before(a, b) || a.dataset.name.localeCompare(b.dataset.name)));
}

fields.forEach((field) => field.addEventListener("input", show));
byId("reset").addEventListener("click", () => {
  fields.forEach((field) => { field.value = field.id === "order" ? "score" : ""; });
  show();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  const there = link && byId(decodeURIComponent(link.getAttribute("href").slice(1)));
  if (there) { there.open = true; there.classList.remove("off"); }
});
show();
