const boxes = [...document.querySelectorAll(".runs input[type=checkbox]")];

function update() {
  for (const box of boxes) {
    document.querySelectorAll(`[data-series="${box.value}"]`).forEach((part) => part.classList.toggle("off", !box.checked));
    document.querySelectorAll(`figure[data-row="${box.value}"]`).forEach((part) => part.classList.toggle("off", !box.checked));
  }
}

function setOff(row) {
  const at = row && row.dataset.row;
  document.querySelectorAll("[data-series]").forEach((part) => part.classList.toggle("faded", at !== null && part.dataset.series !== at));
}

boxes.forEach((box) => box.addEventListener("change", update));
for (const [id, state] of [["all", true], ["none", false]]) {
  const button = document.getElementById(id);
  if (button) button.addEventListener("click", () => { boxes.forEach((box) => { box.checked = state; }); update(); });
}
document.querySelectorAll("tr[data-row]").forEach((row) => {
  row.addEventListener("mouseenter", () => setOff(row));
  row.addEventListener("mouseleave", () => setOff(null));
});
document.querySelectorAll(".pictures img").forEach((image) => image.addEventListener("click", () => image.classList.toggle("large")));
