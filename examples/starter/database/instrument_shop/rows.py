"""Rows of the instrument shop: an online shop for musical instruments, orders of 2023 and 2024.

Made to hold near misses on purpose: `list_price`, `sale_price` and `purchase_price`, 'acoustic guitar' and
'classical guitar', `ordered_on`, `shipped_on` and `delivered_on`, prices a cent or fifty apart, customers
whose names differ in one letter ('Meyer', 'Meier').
"""

import random
from datetime import date, timedelta

# (brand, country, founded, years of warranty); an empty year is not known.
BRANDS = """
Alder & Quill|United Kingdom|1968|2
Amberwood|Canada|1974|5
Arco Fino|Italy|1889|3
Bellweather|United States|1921|2
Blackbird Drums|United States|1996|2
Bluestem|United States|1983|5
Brassica|Germany|1902|3
Calliope Keys|Japan|1951|5
Campanella|Italy|1933|3
Cantabile|Austria|1847|10
Cedar Lane|Canada|2001|2
Cordoval|Spain|1912|3
Corvid Audio|Germany|2009|2
Daybreak|China|2004|1
Drumlin|Ireland|1988|2
Duet Works|Netherlands||2
Fenwick|United Kingdom|1956|2
Fiddlehead|Canada|1992|3
Fjellton|Norway|1979|3
Glasswing|Japan|1999|2
Golden Reed|France|1885|3
Halewood|United Kingdom|1962|2
Harmonia|Germany|1910|5
Highwire|United States|2012|1
Hollow Oak|United States|1947|5
Ironbark|Australia|1985|2
Jadesong|China|1998|1
Kanto Strings|Japan|1965|3
Kettle & Snare|United Kingdom|1973|2
Klangwerk|Germany|1994|3
La Palma|Spain|1929|3
Larkspur|United Kingdom||2
Lumen Audio|Sweden|2007|2
Maestrale|Italy|1955|3
Marlin Bay|United States|1990|1
Mistral Winds|France|1924|3
Nightjar|Australia|2010|2
Nordklang|Sweden|1971|3
Oberton|Austria|1936|5
Old Mill|Ireland|1950|2
Pacific Tone|Japan|1978|5
Pan & Sons|Greece|1966|2
Quaver|China|2011|1
Redwood Row|United States|1969|5
Sarabande|France|1907|3
Silver Lake|Canada|1986|2
Sonnenfeld|Germany|1863|10
Stradella|Italy|1870|3
Tonhalle|Germany|1928|5
Velvet Hammer|United States|2005|2
Weaver & Holt|United Kingdom|1938|3
Zamba|Brazil|1981|1
"""

# Category -> (models, lowest and highest list price).
MODELS = {
    "acoustic guitar": (["Dreadnought 20", "Dreadnought 21", "Parlour", "Jumbo", "Travel Guitar"], 129, 1800),
    "classical guitar": (["Concert 4/4", "Concert 3/4", "Student", "Soloist"], 99, 1500),
    "electric guitar": (["Single Cut", "Double Cut", "Offset", "Offset II", "Baritone"], 199, 2400),
    "bass guitar": (["Four String Bass", "Five String Bass", "Short Scale Bass"], 229, 1900),
    "keyboard": (["Stage 88", "Stage 73", "Digital Piano", "Home Keyboard"], 149, 2900),
    "violin": (["Violin 4/4", "Violin 3/4", "Viola", "Electric Violin"], 119, 2500),
    "wind": (["Clarinet", "Alto Saxophone", "Tenor Saxophone", "Flute", "Trumpet"], 159, 2700),
    "drums": (["Stage Kit", "Studio Kit", "Snare Drum", "Cajon", "Practice Pad"], 29, 1700),
    "accessory": (
        ["String Set Light", "String Set Medium", "Guitar Stand", "Metronome", "Reed Box", "Gig Bag"],
        5,
        90,
    ),
}
SUPPLIER_WORDS = [
    "Atlas",
    "Beacon",
    "Continental",
    "Delta",
    "Elbe",
    "Forte",
    "Grand",
    "Hansa",
    "Iberia",
    "Jubilee",
]
SUPPLIER_WORDS += ["Kings", "Lakeside", "Metro", "Nova", "Orchard", "Prime", "Quarter", "Riverside"]
SUPPLIER_KINDS = ["Music Trade", "Instruments", "Distribution"]
CITIES = [
    ("Hamburg", "Germany"),
    ("Berlin", "Germany"),
    ("Frankfurt am Main", "Germany"),
    ("Frankfurt an der Oder", "Germany"),
    ("Vienna", "Austria"),
    ("Graz", "Austria"),
    ("Lyon", "France"),
    ("Nantes", "France"),
    ("Utrecht", "Netherlands"),
    ("Bologna", "Italy"),
    ("Dublin", "Ireland"),
    ("Gothenburg", "Sweden"),
]
GIVEN = [
    "Alice",
    "Bruno",
    "Clara",
    "Klara",
    "David",
    "Emma",
    "Ewa",
    "Felix",
    "Giulia",
    "Henrik",
    "Isabel",
    "Jules",
]
GIVEN += [
    "Karin",
    "Leon",
    "Maeve",
    "Niamh",
    "Otto",
    "Pauline",
    "Ravi",
    "Sofia",
    "Sophia",
    "Thomas",
    "Ulla",
    "Yann",
]
FAMILY = [
    "Andersson",
    "Bauer",
    "Conti",
    "Dubois",
    "Evers",
    "Fischer",
    "Gruber",
    "Huber",
    "Johansson",
    "Keller",
]
FAMILY += [
    "Lefevre",
    "Meyer",
    "Meier",
    "Novotny",
    "Orsini",
    "Peeters",
    "Rossi",
    "Schmid",
    "Schmidt",
    "Tierney",
    "Visser",
]
PAYMENTS = ["credit card", "credit card", "bank transfer", "invoice", "gift card"]
VOUCHERS = [None, None, None, None, "WELCOME10", "SPRING23", "SPRING24", "LOYAL"]
TITLES = [
    None,
    "Great sound",
    "Great sound for the price",
    "Not what I expected",
    "Arrived damaged",
    "Good for beginners",
    "Beautiful finish",
    "Goes out of tune",
    "Would buy again",
    "Would not buy again",
]


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """Table name -> rows, in an order in which every foreign key is already there."""
    brands = []
    for line in BRANDS.strip().splitlines():
        name, country, founded, warranty = line.split("|")
        brands.append((len(brands) + 1, name, country, int(founded) if founded else None, int(warranty)))

    suppliers = []
    for word in SUPPLIER_WORDS:
        for kind in SUPPLIER_KINDS:
            start = date(2012, 1, 1) + timedelta(days=rng.randint(0, 3900))
            end = (
                None
                if rng.random() < 0.4
                else str(date(2023, 12, 31) + timedelta(days=rng.choice([0, 181, 366, 731])))
            )
            minimum, lead = (
                rng.choice([None, 250.0, 500.0, 500.0, 1000.0]),
                rng.choice([2, 3, 5, 5, 7, 10, 14, 15, 28]),
            )
            city = rng.choice(CITIES)[0]
            suppliers.append((len(suppliers) + 1, f"{word} {kind}", city, lead, str(start), end, minimum))

    products, used = [], set()
    while len(products) < 140:
        category = rng.choice(list(MODELS))
        models, low, high = MODELS[category]
        brand, model = rng.choice(brands[:-4]), rng.choice(models)  # the last brands have no product
        if (brand[0], model) in used:
            continue
        used.add((brand[0], model))
        # Squared, so that cheap products are more frequent than dear ones.
        price = round(low + (high - low) * rng.random() ** 2) + rng.choice([0, 0, 0.5, 0.99])
        sale = round(price * rng.choice([0.75, 0.8, 0.9]), 2) if rng.random() < 0.3 else None
        purchase = round(price * rng.uniform(0.45, 0.85), 2)
        stock, reorder = rng.choice([0, 0, 1, 2, 3, 5, 8, 12, 20, 21, 40]), rng.choice([2, 3, 5, 5, 10])
        listed = date(2018, 1, 1) + timedelta(days=rng.randint(0, 2100))
        discontinued = date(2024, 1, 1) + timedelta(days=rng.randint(0, 330)) if rng.random() < 0.12 else None
        supplier = None if rng.random() < 0.07 else rng.randint(1, 48)
        product = (
            len(products) + 1,
            f"{brand[1]} {model}",
            category,
            brand[0],
            supplier,
            price,
            sale,
            purchase,
        )
        products.append((*product, stock, reorder, str(listed), discontinued and str(discontinued)))

    customers = []
    for customer_id in range(1, 151):
        given, family = rng.choice(GIVEN), rng.choice(FAMILY)
        host = rng.choice(["mail.example", "post.example", "music.example"])
        email = None if rng.random() < 0.1 else f"{given}.{family}{customer_id}@{host}".lower()
        registered = date(2019, 3, 1) + timedelta(days=rng.randint(0, 1750))
        customer = (customer_id, f"{given} {family}", email, *rng.choice(CITIES), str(registered))
        customers.append((*customer, int(rng.random() < 0.4)))

    orders = []
    for order_id in range(1, 231):
        customer = rng.choice(customers[:-18])  # the last customers have ordered nothing
        ordered = max(date(2023, 1, 2), date.fromisoformat(customer[5])) + timedelta(days=rng.randint(0, 330))
        status = rng.choice(["delivered"] * 7 + ["shipped", "open", "cancelled"])
        shipped = ordered + timedelta(days=rng.choice([0, 1, 1, 2, 3, 7]))
        delivered = shipped + timedelta(days=rng.choice([1, 2, 2, 3, 5, 9]))
        shipped_on = str(shipped) if status in ("shipped", "delivered") else None
        delivered_on = str(delivered) if status == "delivered" else None
        fee, voucher = rng.choice([0.0, 0.0, 4.9, 4.95, 9.9, 29.0]), rng.choice(VOUCHERS)
        order = (order_id, customer[0], str(ordered), shipped_on, delivered_on, status)
        orders.append((*order, rng.choice(PAYMENTS), fee, voucher))

    order_items = []
    for order in orders:
        for product in rng.sample(
            products[:-12], rng.choice([1, 1, 2, 2, 3])
        ):  # the last products are unsold
            quantity = (
                rng.choice([1, 2, 3, 4, 10]) if product[2] == "accessory" else rng.choice([1, 1, 1, 1, 2])
            )
            price = product[6] if product[6] is not None and rng.random() < 0.5 else product[5]
            discount = rng.choice([None, None, None, None, 0, 5, 10, 10, 15])
            returned = None
            if order[4] is not None and rng.random() < 0.1:
                returned = str(date.fromisoformat(order[4]) + timedelta(days=rng.randint(2, 30)))
            order_items.append(
                (len(order_items) + 1, order[0], product[0], quantity, price, discount, returned)
            )

    reviews = []
    for review_id in range(1, 171):
        product, customer = rng.choice(products[:120])[0], rng.choice(customers)
        posted = max(date(2023, 1, 10), date.fromisoformat(customer[5])) + timedelta(days=rng.randint(5, 340))
        rating = rng.choice([1, 2, 3, 3, 4, 4, 4, 5, 5, 5])
        review = (review_id, product, customer[0], rating, rng.choice(TITLES), str(posted))
        reviews.append((*review, rng.choice([0, 0, 0, 1, 2, 3, 7, 12, 25])))

    return {
        "brands": brands,
        "suppliers": suppliers,
        "products": products,
        "customers": customers,
        "orders": orders,
        "order_items": order_items,
        "reviews": reviews,
    }
