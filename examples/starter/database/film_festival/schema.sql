-- A regional film festival: directors and their films, venues and screenings, jurors, their marks and the prizes.
CREATE TABLE director (
    director_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    home_country TEXT NOT NULL,
    birth_year INTEGER,
    first_film_year INTEGER NOT NULL
);

CREATE TABLE film (
    film_id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    director_id INTEGER NOT NULL,
    section TEXT NOT NULL,
    country TEXT NOT NULL,
    spoken_language TEXT,
    runtime_min INTEGER NOT NULL,
    release_year INTEGER NOT NULL,
    budget_eur INTEGER,
    subtitled INTEGER NOT NULL,
    FOREIGN KEY (director_id) REFERENCES director (director_id)
);

CREATE TABLE venue (
    venue_id INTEGER PRIMARY KEY,
    venue_name TEXT NOT NULL,
    town TEXT NOT NULL,
    kind TEXT NOT NULL,
    seat_count INTEGER NOT NULL,
    wheelchair_places INTEGER NOT NULL,
    daily_rent REAL,
    first_used_year INTEGER NOT NULL
);

CREATE TABLE screening (
    screening_id INTEGER PRIMARY KEY,
    film_id INTEGER NOT NULL,
    venue_id INTEGER NOT NULL,
    screened_on DATE NOT NULL,
    start_time TEXT NOT NULL,
    full_price REAL NOT NULL,
    reduced_price REAL NOT NULL,
    tickets_sold INTEGER NOT NULL,
    tickets_returned INTEGER NOT NULL,
    guest TEXT,
    FOREIGN KEY (film_id) REFERENCES film (film_id),
    FOREIGN KEY (venue_id) REFERENCES venue (venue_id)
);

CREATE TABLE juror (
    juror_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    profession TEXT NOT NULL,
    town TEXT,
    served_since INTEGER NOT NULL
);

CREATE TABLE mark (
    film_id INTEGER NOT NULL,
    juror_id INTEGER NOT NULL,
    story_points INTEGER NOT NULL,
    craft_points INTEGER NOT NULL,
    comment TEXT,
    given_on DATE NOT NULL,
    PRIMARY KEY (film_id, juror_id),
    FOREIGN KEY (film_id) REFERENCES film (film_id),
    FOREIGN KEY (juror_id) REFERENCES juror (juror_id)
);

CREATE TABLE prize (
    prize_id INTEGER PRIMARY KEY,
    prize_name TEXT NOT NULL,
    film_id INTEGER NOT NULL,
    edition_year INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    prize_money INTEGER,
    FOREIGN KEY (film_id) REFERENCES film (film_id)
);
