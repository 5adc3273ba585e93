// The picture: zoom and move. The zoom stays from cell to cell, so that sizes can be compared.

const STEPS = [1, 1.5, 2, 3, 4, 6];
const viewer = document.getElementById("viewer");
const canvas = document.getElementById("canvas");
const text = document.getElementById("zoom-text");
let zoom = STEPS.includes(Number(localStorage.getItem("zoom"))) ? Number(localStorage.getItem("zoom")) : 1;
let x = 0;
let y = 0;
let held = null;

export function zoomBy(steps) {
  zoomTo(STEPS[Math.min(STEPS.length - 1, Math.max(0, STEPS.indexOf(zoom) + steps))]);
}

export function zoomTo(value) {
  x *= value / zoom;
  y *= value / zoom;
  zoom = value;
  localStorage.setItem("zoom", zoom);
  draw();
}

export function moveBy(across, down) {
  x += across;
  y += down;
  draw();
}

export function centre() {
  x = y = 0;
  draw();
}

function draw() {
  const reach = (size) => Math.max(0, ((zoom - 1) * size) / 2);
  x = Math.min(reach(canvas.offsetWidth), Math.max(-reach(canvas.offsetWidth), x));
  y = Math.min(reach(canvas.offsetHeight), Math.max(-reach(canvas.offsetHeight), y));
  canvas.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
  viewer.classList.toggle("zoomed", zoom > 1);
  viewer.classList.toggle("sharp", zoom >= 4);
  text.textContent = `${zoom}×`;
}

viewer.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && zoom === 1 && event.deltaY > 0) return; // the page scrolls on
  event.preventDefault();
  zoomBy(event.deltaY < 0 ? 1 : -1);
}, { passive: false });
viewer.addEventListener("dblclick", (event) => {
  if (!event.target.closest("button")) zoomTo(zoom > 1 ? 1 : 3);
});
viewer.addEventListener("pointerdown", (event) => {
  if (zoom === 1 || event.target.closest("button, a")) return;
  held = { x: event.clientX, y: event.clientY };
  viewer.setPointerCapture(event.pointerId);
  viewer.classList.add("moving");
});
viewer.addEventListener("pointermove", (event) => {
  if (!held) return;
  moveBy(event.clientX - held.x, event.clientY - held.y);
  held = { x: event.clientX, y: event.clientY };
});
for (const end of ["pointerup", "pointercancel"]) {
  viewer.addEventListener(end, () => {
    held = null;
    viewer.classList.remove("moving");
  });
}
document.getElementById("zoom-in").addEventListener("click", () => zoomBy(1));
document.getElementById("zoom-out").addEventListener("click", () => zoomBy(-1));
document.getElementById("zoom-reset").addEventListener("click", () => { zoomTo(1); centre(); });
addEventListener("resize", draw);
draw();
